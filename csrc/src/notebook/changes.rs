//! Storey 1: what a peer's changes did to the notebook.
//!
//! [`digest`] reads their operations, which were decoded when they were admitted, and looks up the position of each
//! object that they change, at a cost proportional to the changes. The engine's patches would cost more: for the path
//! of an object they list all cells.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use automerge::legacy::{Key, Op, OpType};
use automerge::{Automerge, ChangeHash, ObjId, ObjType, Prop, ReadDoc};

use super::rows::{object, Rows};
use super::splice::{inserted, Splice, Spliced};
use super::{Changes, OutputChange};
use crate::replica::{object_id, Applied};

/// The changes of a whole document that arrived: everything is new. Its outputs are not reported one
/// by one: read them from the notebook.
pub(super) fn everything(rows: &Rows) -> Changes {
    Changes {
        cells: rows.visible().map(|(id, _)| id.to_owned()).collect(),
        order: true,
        metadata: true,
        outputs: Vec::new(),
    }
}

/// Reads the changes of one message and brings the order of the cells up to date.
pub(super) fn digest(doc: &Automerge, rows: &mut Rows, applied: &Applied<'_>) -> Changes {
    let mut digest = Digest::of(doc);
    applied.each_operation(|id, op| digest.operation(id, op));
    digest.changes(rows, applied.before)
}

/// What an object is in the document after the changes. A cell is named by its place in the list.
#[derive(Clone)]
enum Role {
    Root,
    /// `/metadata`, or something in it.
    Metadata,
    /// `/cells`.
    List,
    /// A cell.
    Cell(usize),
    /// The list of outputs of a cell.
    Outputs(usize),
    /// Something else in a cell.
    Within(usize),
    /// A cell that the changes made, or something in it.
    New(ObjId),
    /// The list of outputs of such a cell.
    NewOutputs(ObjId),
    /// Readers do not see it, or not as a part of these.
    Other,
}

struct Digest<'a> {
    doc: &'a Automerge,
    /// The roles of the objects that operations changed or made.
    roles: HashMap<ObjId, Role>,
    order: bool,
    /// The id of a cell changed: it may appear, vanish or be another.
    renamed: bool,
    metadata: bool,
    /// Cells that the changes made, and whether they gave them outputs.
    made: HashMap<ObjId, bool>,
    /// Cells in which something changed.
    touched: BTreeSet<usize>,
    /// Cells of which the member `outputs` changed.
    replaced: BTreeSet<usize>,
    /// What happened to lists of outputs.
    lists: BTreeMap<usize, (ObjId, Spliced)>,
}

impl<'a> Digest<'a> {
    fn of(doc: &'a Automerge) -> Self {
        Self {
            doc,
            roles: HashMap::new(),
            order: false,
            renamed: false,
            metadata: false,
            made: HashMap::new(),
            touched: BTreeSet::new(),
            replaced: BTreeSet::new(),
            lists: BTreeMap::new(),
        }
    }

    fn operation(&mut self, id: ObjId, op: &Op) {
        let object = object_id(&op.obj);
        let role = match self.roles.get(&object) {
            Some(role) => role.clone(),
            None => {
                let role = self.role(&object);
                self.roles.insert(object.clone(), role.clone());
                role
            }
        };
        let key = match &op.key {
            Key::Map(key) => key.as_str(),
            Key::Seq(_) => "",
        };
        let made = match role {
            Role::Root => match key {
                "cells" => {
                    self.order = true;
                    Role::Other
                }
                "metadata" => {
                    self.metadata = true;
                    Role::Metadata
                }
                _ => Role::Other,
            },
            Role::Metadata => {
                self.metadata = true;
                Role::Metadata
            }
            Role::List => {
                self.order = true;
                self.made.insert(id.clone(), false);
                Role::New(id.clone())
            }
            Role::Cell(cell) => {
                self.touched.insert(cell);
                match key {
                    "outputs" => {
                        self.replaced.insert(cell);
                        Role::Other
                    }
                    "id" => {
                        self.order = true;
                        self.renamed = true;
                        Role::Within(cell)
                    }
                    _ => Role::Within(cell),
                }
            }
            Role::Outputs(cell) => {
                self.touched.insert(cell);
                let (_, spliced) = self.lists.entry(cell).or_insert_with(|| (object, Spliced::default()));
                spliced.add(id.clone(), op);
                Role::Within(cell)
            }
            Role::Within(cell) => {
                self.touched.insert(cell);
                Role::Within(cell)
            }
            Role::New(cell) if key == "outputs" => Role::NewOutputs(cell),
            Role::New(cell) => Role::New(cell),
            Role::NewOutputs(cell) => {
                self.made.insert(cell, true);
                Role::Other
            }
            Role::Other => Role::Other,
        };
        if let OpType::Make(_) = op.action {
            self.roles.insert(id, made);
        }
    }

    /// The role of an object that was there before these changes.
    fn role(&self, object: &ObjId) -> Role {
        let path = self.doc.parents(object).ok().and_then(|parents| parents.visible_path());
        let Some(path) = path else { return Role::Other };
        let key = |place: usize| match path.get(place) {
            Some((_, Prop::Map(key))) => key.as_str(),
            _ => "",
        };
        match (key(0), &path[..]) {
            (_, []) => Role::Root,
            ("metadata", _) => Role::Metadata,
            ("cells", [_]) => Role::List,
            ("cells", [_, (_, Prop::Seq(cell))]) => Role::Cell(*cell),
            ("cells", [_, (_, Prop::Seq(cell)), _]) if key(2) == "outputs" => Role::Outputs(*cell),
            ("cells", [_, (_, Prop::Seq(cell)), ..]) => Role::Within(*cell),
            _ => Role::Other,
        }
    }

    /// Reports the changes in terms of cells and outputs. `before` are the heads before the changes.
    fn changes(mut self, rows: &mut Rows, before: &[ChangeHash]) -> Changes {
        let mut changes = Changes { order: self.order, metadata: self.metadata, ..Changes::default() };
        let mut arrived = BTreeSet::new();
        if self.order {
            let had: HashSet<String> = rows.visible().map(|(id, _)| id.to_owned()).collect();
            arrived = rows.refresh(self.doc, self.renamed);
            for row in arrived.iter().map(|place| &rows.rows[*place]) {
                let Some(id) = &row.id else { continue };
                changes.cells.insert(id.clone());
                if had.contains(id) {
                    // Moved: its outputs are reported again from the start.
                    changes.outputs.push(OutputChange::Cleared { cell_id: id.clone() });
                }
                if self.made.get(&row.cell) != Some(&false) {
                    changes.outputs.extend(self.all_outputs(&row.cell, id));
                }
            }
        }
        for place in std::mem::take(&mut self.touched) {
            let Some((cell, id)) = rows.rows.get(place).and_then(|row| Some((&row.cell, row.id.as_ref()?)))
            else {
                continue;
            };
            changes.cells.insert(id.clone());
            if arrived.contains(&place) {
                continue;
            }
            if self.replaced.contains(&place) && self.outputs_differ(cell, before) {
                changes.outputs.push(OutputChange::Cleared { cell_id: id.clone() });
                changes.outputs.extend(self.all_outputs(cell, id));
            } else if let Some((list, spliced)) = self.lists.get(&place) {
                changes.outputs.extend(Splice::steps(self.doc, list, before, spliced, id));
            }
        }
        changes
    }

    /// Whether a cell has another object in the place of its outputs than it had.
    fn outputs_differ(&self, cell: &ObjId, before: &[ChangeHash]) -> bool {
        let id = |found: Option<(_, ObjId)>| found.map(|(_, id)| id);
        let now = id(self.doc.get(cell, "outputs").ok().flatten());
        now.as_ref().is_some_and(|now| self.roles.contains_key(now))
            || now != id(self.doc.get_at(cell, "outputs", before).ok().flatten())
    }

    fn all_outputs(&self, cell: &ObjId, id: &str) -> Vec<OutputChange> {
        let list = object(self.doc, cell, "outputs", ObjType::List);
        list.iter().flat_map(|list| inserted(self.doc, list, 0, id)).collect()
    }
}
