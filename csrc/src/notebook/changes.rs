//! Storey 1: what a peer's changes did to the notebook.
//!
//! The engine reports patches, grouped by object with parents first. [`digest`] reads them once: it
//! updates the order of the cells and tells what happened in terms of cells and outputs.

use std::collections::{BTreeMap, HashSet};

use automerge::{Automerge, ChangeHash, ObjId, ObjType, Patch, PatchAction, Prop, ReadDoc, Value};

use super::rows::{scalar_str, Row, Rows};
use super::splice::Splice;
use super::{Changes, OutputChange};

/// What the arrival of a whole document means: everything is new. Its outputs are not reported one
/// by one, they are to be read from the notebook.
pub(super) fn everything(rows: &Rows) -> Changes {
    Changes {
        cells: rows.visible().map(|(id, _)| id.to_owned()).collect(),
        order: true,
        metadata: true,
        outputs: Vec::new(),
    }
}

/// Reads the patches of one message and brings the order of the cells up to date. `before` are the
/// heads before the message.
pub(super) fn digest(doc: &Automerge, rows: &mut Rows, patches: &[Patch], before: &[ChangeHash]) -> Changes {
    let mut digest = Digest {
        doc,
        rows,
        changes: Changes::default(),
        fresh: HashSet::new(),
        removed: HashSet::new(),
        spliced: BTreeMap::new(),
        rebuild: false,
    };
    patches.iter().for_each(|patch| digest.patch(patch));
    for (list, cell_id) in std::mem::take(&mut digest.spliced) {
        let actions = patches.iter().filter(|patch| patch.obj == list).map(|patch| &patch.action);
        let steps = Splice::of(doc, &list, before, actions).steps(&cell_id);
        digest.changes.outputs.retain(|change| change.cell_id() != cell_id);
        digest.changes.outputs.extend(steps);
    }
    let (changes, rebuild) = (digest.changes, digest.rebuild);
    let agrees = rows.list.as_ref().map_or(0, |list| doc.length(list)) == rows.rows.len();
    if rebuild || !agrees {
        *rows = Rows::build(doc);
    }
    changes
}

struct Digest<'a> {
    doc: &'a Automerge,
    rows: &'a mut Rows,
    changes: Changes,
    /// Objects of cells that came with this message: their lists of outputs are not cleared ones.
    fresh: HashSet<ObjId>,
    /// Ids of cells that went with this message: one that comes back was moved.
    removed: HashSet<String>,
    /// Lists of outputs from which something was removed, with their cells. In an order, so that the same changes are
    /// told in the same way.
    spliced: BTreeMap<ObjId, String>,
    /// True if the order must be read again because a patch does not tell it.
    rebuild: bool,
}

impl Digest<'_> {
    fn patch(&mut self, patch: &Patch) {
        let root = match patch.path.first() {
            Some((_, Prop::Map(key))) => key.as_str(),
            Some((_, Prop::Seq(_))) => return,
            None => return self.root(&patch.action),
        };
        match (root, &patch.path[1..]) {
            ("metadata", _) => self.changes.metadata = true,
            ("cells", []) => self.list(&patch.obj, &patch.action),
            ("cells", [_]) => self.cell(&patch.obj, &patch.action),
            ("cells", [_, (cell, Prop::Map(key)), rest @ ..]) => {
                let id = self.touched(cell);
                if let (Some(id), "outputs", []) = (id, key.as_str(), rest) {
                    self.outputs(&id, &patch.obj, &patch.action);
                }
            }
            _ => {}
        }
    }

    /// A patch of the root: a list or map put there stands for another whole subtree.
    fn root(&mut self, action: &PatchAction) {
        match changed_key(action) {
            Some("cells") => {
                self.changes.order = true;
                self.rebuild = true;
            }
            Some("metadata") => self.changes.metadata = true,
            _ => {}
        }
    }

    /// A patch of the list of cells.
    fn list(&mut self, list: &ObjId, action: &PatchAction) {
        let known = self.rows.list.as_ref() == Some(list) && !self.rebuild;
        match action {
            PatchAction::Insert { index, values } => {
                self.changes.order = true;
                let new: Vec<Row> = values.iter().map(|(value, cell, _)| self.arrived(value, cell)).collect();
                if known && *index <= self.rows.rows.len() {
                    self.rows.rows.splice(index..index, new);
                } else {
                    self.rebuild = true;
                }
            }
            PatchAction::PutSeq { index, value, .. } => {
                self.changes.order = true;
                let new = self.arrived(&value.0, &value.1);
                match self.rows.rows.get_mut(*index).filter(|_| known) {
                    Some(row) => *row = new,
                    None => self.rebuild = true,
                }
            }
            PatchAction::DeleteSeq { index, length } => {
                self.changes.order = true;
                let end = index.saturating_add(*length);
                if known && end <= self.rows.rows.len() {
                    let gone = self.rows.rows.drain(*index..end);
                    self.removed.extend(gone.filter_map(|row| row.id));
                } else {
                    self.rebuild = true;
                }
            }
            _ => {}
        }
    }

    /// A cell that stands in the list now.
    fn arrived(&mut self, value: &Value<'_>, cell: &ObjId) -> Row {
        let is_map = matches!(value, Value::Object(ObjType::Map));
        let row = Row::read(self.doc, is_map, cell.clone());
        if let Some(id) = &row.id {
            self.changes.cells.insert(id.clone());
            self.fresh.insert(cell.clone());
            if self.removed.contains(id) || self.rows.find(id).is_some() {
                // Moved: its outputs are about to be told again from the start.
                self.changes.outputs.push(OutputChange::Cleared { cell_id: id.clone() });
            }
        }
        row
    }

    /// A patch of a cell's map.
    fn cell(&mut self, cell: &ObjId, action: &PatchAction) {
        if changed_key(action) == Some("id") && !self.fresh.contains(cell) {
            // Nobody renames cells; if somebody does, the cell may appear, vanish or be another.
            self.changes.order = true;
            self.rebuild = true;
        }
        let Some(id) = self.touched(cell) else {
            return;
        };
        let replaced = matches!(action, PatchAction::PutMap { .. } | PatchAction::DeleteMap { .. });
        if replaced && changed_key(action) == Some("outputs") && !self.fresh.contains(cell) {
            self.changes.outputs.push(OutputChange::Cleared { cell_id: id });
        }
    }

    /// A patch of a cell's list of outputs.
    fn outputs(&mut self, id: &str, list: &ObjId, action: &PatchAction) {
        let cell_id = || id.to_owned();
        let changes = &mut self.changes.outputs;
        match action {
            PatchAction::Insert { index, values } => {
                for (offset, (value, _, _)) in values.iter().enumerate() {
                    if let Some(element) = value.as_str() {
                        changes.push(OutputChange::Inserted {
                            cell_id: cell_id(),
                            index: index + offset,
                            element: element.to_owned(),
                        });
                    }
                }
            }
            PatchAction::PutSeq { index, value, .. } => {
                if let Some(element) = value.0.as_str() {
                    changes.push(OutputChange::Replaced {
                        cell_id: cell_id(),
                        index: *index,
                        element: element.to_owned(),
                    });
                }
            }
            // What this means only all patches of the list together tell.
            PatchAction::DeleteSeq { .. } => {
                self.spliced.insert(list.clone(), cell_id());
            }
            _ => {}
        }
    }

    /// Notes that something in a cell changed; its id if readers see the cell.
    fn touched(&mut self, cell: &ObjId) -> Option<String> {
        let id = scalar_str(self.doc, cell, "id")?;
        if !self.changes.cells.contains(&id) {
            self.changes.cells.insert(id.clone());
        }
        Some(id)
    }
}

/// The key of a map that a patch is about.
fn changed_key(action: &PatchAction) -> Option<&str> {
    match action {
        PatchAction::PutMap { key, .. } | PatchAction::DeleteMap { key } => Some(key),
        PatchAction::Conflict { prop: Prop::Map(key) }
        | PatchAction::Increment { prop: Prop::Map(key), .. } => Some(key),
        _ => None,
    }
}
