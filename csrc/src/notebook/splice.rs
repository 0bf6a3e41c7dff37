//! Storey 1: what the removal of outputs from a cell's list means.
//!
//! Pieces of stream text are merged by a splice at the end of the list
//! ([`Op::SpliceOutputs`](super::Op::SpliceOutputs)). One message may carry several merges, and outputs
//! that were added and merged in between; only the lists before and after it are compared.

use automerge::{Automerge, ChangeHash, ObjId, PatchAction, ReadDoc, Value};

use super::rows::ref_str;
use super::OutputChange;

/// Where an element of the list after a message comes from.
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
    /// Follows the patches of the list, in their order.
    pub(super) fn of<'p>(
        doc: &'a Automerge,
        list: &'a ObjId,
        before: &'a [ChangeHash],
        actions: impl Iterator<Item = &'p PatchAction>,
    ) -> Self {
        let length = doc.length_at(list, before);
        let mut marks: Vec<Mark> = (0..length).map(Mark::Old).collect();
        for action in actions {
            match action {
                PatchAction::Insert { index, values } => {
                    let place = (*index).min(marks.len());
                    let new = values.iter().map(|(value, _, _)| Mark::New(string(value)));
                    marks.splice(place..place, new.collect::<Vec<_>>());
                }
                PatchAction::PutSeq { index, value, .. } => {
                    if let Some(mark) = marks.get_mut(*index) {
                        let value = string(&value.0);
                        *mark = match mark.old() {
                            Some(place) => Mark::Put(place, value),
                            None => Mark::New(value),
                        };
                    }
                }
                PatchAction::DeleteSeq { index, length } => {
                    let end = index.saturating_add(*length).min(marks.len());
                    marks.drain((*index).min(end)..end);
                }
                _ => {}
            }
        }
        Self { doc, list, before, length, marks }
    }

    /// The steps to repeat: a merge if the end of the list was replaced, else all of it anew, because
    /// no step can take back what was delivered.
    pub(super) fn steps(&self, cell_id: &str) -> Vec<OutputChange> {
        self.merge(cell_id).unwrap_or_else(|| self.everything(cell_id))
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

    fn everything(&self, cell_id: &str) -> Vec<OutputChange> {
        let cell_id = || cell_id.to_owned();
        let now = self.doc.list_range(self.list, ..).filter_map(|item| {
            Some(OutputChange::Inserted {
                cell_id: cell_id(),
                index: item.index,
                element: ref_str(&item.value)?,
            })
        });
        std::iter::once(OutputChange::Cleared { cell_id: cell_id() }).chain(now).collect()
    }
}

fn string(value: &Value<'_>) -> Option<String> {
    value.as_str().map(str::to_owned)
}
