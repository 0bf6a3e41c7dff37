//! Storey 1: the change of a cell's list of outputs, derived from the operations on it.
//!
//! Pieces of stream text are merged by a splice at the end of the list
//! ([`Op::SpliceOutputs`](super::Op::SpliceOutputs)). One message may carry several merges, and outputs
//! that were added and merged in between; only the lists before and after it are compared.

use std::collections::{HashMap, HashSet};

use automerge::legacy::{Op, OpType};
use automerge::{Automerge, ChangeHash, ObjId, ReadDoc};

use super::rows::ref_str;
use super::OutputChange;
use crate::replica::op_id;

/// The operations of one message on a list, by what they do. Elements keep their order, but an element that was put has
/// the id of the operation that put it.
#[derive(Default)]
pub(super) struct Spliced {
    inserted: HashSet<ObjId>,
    /// With the operations that it replaced.
    put: HashMap<ObjId, Vec<ObjId>>,
    deleted: bool,
}

impl Spliced {
    /// Adds an operation with its id.
    pub(super) fn add(&mut self, id: ObjId, op: &Op) {
        match op.action {
            _ if op.insert => drop(self.inserted.insert(id)),
            OpType::Delete => self.deleted = true,
            OpType::Put(_) | OpType::Make(_) => {
                self.put.insert(id, op.pred.iter().map(op_id).collect());
            }
            _ => {}
        }
    }

    /// The position that the element with this id had before; an error if it cannot be determined.
    fn origin(&self, id: &ObjId, places: &HashMap<ObjId, usize>) -> Result<Option<usize>, ()> {
        let mut id = id;
        // Each step leads to an older operation; if it does not, no correct peer wrote it.
        for _ in 0..=self.put.len() {
            if let Some(place) = places.get(id) {
                return Ok(Some(*place));
            }
            if self.inserted.contains(id) {
                return Ok(None);
            }
            // Where peers put something at once, it took the place of all that was there.
            let known = |id: &&ObjId| {
                places.contains_key(id) || self.inserted.contains(id) || self.put.contains_key(id)
            };
            id = self.put.get(id).and_then(|ids| ids.iter().find(known)).ok_or(())?;
        }
        Err(())
    }
}

/// Where an element of the list after a message comes from.
#[derive(Clone)]
enum Mark {
    /// It was there, at this place.
    Old(usize),
    /// It was there, at this place, with another value.
    Put(usize, Option<String>),
    /// It is new. Readers do not see elements that are not scalar strings.
    New(Option<String>),
}

impl Mark {
    fn old(&self) -> Option<usize> {
        match self {
            Self::Old(place) | Self::Put(place, _) => Some(*place),
            Self::New(_) => None,
        }
    }
}

/// One list of outputs, before and after a message.
pub(super) struct Splice<'a> {
    doc: &'a Automerge,
    list: &'a ObjId,
    before: &'a [ChangeHash],
    length: usize,
    marks: Vec<Mark>,
}

impl<'a> Splice<'a> {
    /// The steps to repeat: what was added and replaced; a merge if the end of the list was replaced; else the whole
    /// list again, because no step can undo what was delivered.
    pub(super) fn steps(
        doc: &'a Automerge,
        list: &'a ObjId,
        before: &'a [ChangeHash],
        spliced: &Spliced,
        cell_id: &str,
    ) -> Vec<OutputChange> {
        let new = spliced.inserted.len();
        if spliced.put.is_empty() && !spliced.deleted {
            // Outputs come at the end. The list may be long, and only that is looked at.
            let end = doc.length(list).saturating_sub(new);
            let mut last = doc.list_range(list, end..);
            if last.by_ref().take(new).filter(|item| spliced.inserted.contains(&item.id())).count() == new {
                return inserted(doc, list, end, cell_id);
            }
        }
        let splice = Self::of(doc, list, before, spliced);
        let steps = splice.and_then(|splice| splice.additions(cell_id).or_else(|| splice.merge(cell_id)));
        steps.unwrap_or_else(|| {
            let cleared = OutputChange::Cleared { cell_id: cell_id.to_owned() };
            std::iter::once(cleared).chain(inserted(doc, list, 0, cell_id)).collect()
        })
    }

    /// Compares the lists; none if the origin of an element cannot be determined.
    fn of(doc: &'a Automerge, list: &'a ObjId, before: &'a [ChangeHash], spliced: &Spliced) -> Option<Self> {
        let places: HashMap<ObjId, usize> =
            doc.list_range_at(list, .., before).map(|item| (item.id(), item.index)).collect();
        let marks = doc.list_range(list, ..).map(|item| {
            let (id, value) = (item.id(), ref_str(&item.value));
            Some(match spliced.origin(&id, &places).ok()? {
                None => Mark::New(value),
                Some(place) if spliced.put.contains_key(&id) => Mark::Put(place, value),
                Some(place) => Mark::Old(place),
            })
        });
        Some(Self { doc, list, before, length: places.len(), marks: marks.collect::<Option<_>>()? })
    }

    /// The steps if nothing was removed.
    fn additions(&self, cell_id: &str) -> Option<Vec<OutputChange>> {
        let cell_id = || cell_id.to_owned();
        if !self.marks.iter().filter_map(Mark::old).eq(0..self.length) {
            return None;
        }
        let steps = self.marks.iter().enumerate().filter_map(|(index, mark)| match mark.clone() {
            Mark::New(element) => {
                Some(OutputChange::Inserted { cell_id: cell_id(), index, element: element? })
            }
            Mark::Put(_, element) => {
                Some(OutputChange::Replaced { cell_id: cell_id(), index, element: element? })
            }
            Mark::Old(_) => None,
        });
        Some(steps.collect())
    }

    fn merge(&self, cell_id: &str) -> Option<Vec<OutputChange>> {
        let cell = || cell_id.to_owned();
        let kept = self.marks.iter().take_while(|mark| mark.old().is_some()).count();
        let (old, new) = self.marks.split_at(kept);
        let in_place = old.iter().enumerate().all(|(place, mark)| mark.old() == Some(place));
        if !in_place || kept >= self.length || new.iter().any(|mark| mark.old().is_some()) {
            return None;
        }
        let mut steps = Vec::new();
        for mark in old {
            if let Mark::Put(index, Some(element)) = mark {
                steps.push(OutputChange::Replaced {
                    cell_id: cell(),
                    index: *index,
                    element: element.clone(),
                });
            }
        }
        let mut elements = new.iter().enumerate().map(|(place, mark)| match mark {
            Mark::New(Some(element)) => Some((kept + place, element.clone())),
            _ => None,
        });
        let (index, element) = elements.next()??;
        let gone = self.doc.list_range_at(self.list, kept.., self.before);
        let covered = gone.filter_map(|item| ref_str(&item.value)).collect();
        steps.push(OutputChange::Joined { cell_id: cell(), index, covered, element });
        let rest = elements.flatten();
        steps.extend(rest.map(|(index, element)| OutputChange::Inserted { cell_id: cell(), index, element }));
        Some(steps)
    }
}

/// The elements of a list of outputs from a place on, as if each was new.
pub(super) fn inserted(doc: &Automerge, list: &ObjId, from: usize, cell_id: &str) -> Vec<OutputChange> {
    let new = |index, element| OutputChange::Inserted { cell_id: cell_id.to_owned(), index, element };
    doc.list_range(list, from..).filter_map(|item| Some(new(item.index, ref_str(&item.value)?))).collect()
}
