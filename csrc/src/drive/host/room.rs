//! Storey 3, host: a document, its journal, and the members that share it: a room, or the settings.
//!
//! Lock order: room, then peer, then registry.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::journal::Journal;
use super::member::Member;
use super::offload::Offload;
use crate::drive::{lock, panic_text, DriveError};
use crate::notebook::{Notebook, Op};
use crate::replica::{Doc, Replica};
use crate::settings::Settings;

/// A document that peers share. The I/O thread and the host program both use it.
pub struct Room<D = Notebook> {
    /// The notebook id, byte for byte; empty for the settings.
    pub id: String,
    /// Number of members, kept beside the lock: listing the rooms must not wait for a busy one.
    count: AtomicUsize,
    /// Work on this room that worker threads do.
    pub offload: Arc<Offload>,
    state: Mutex<RoomState<D>>,
}

/// The document and the members. Locked for every step, so that all members see changes and broadcasts in one order.
pub struct RoomState<D = Notebook> {
    /// The document.
    pub document: D,
    journal: Option<Journal>,
    members: Vec<Arc<dyn Member>>,
    /// Why the room failed, if it did.
    poisoned: Option<String>,
    closed: bool,
    /// The last write of the journal failed.
    unsaved: bool,
}

/// What a peer takes part in.
pub enum Membership {
    /// The room of a notebook.
    Room(Arc<Room>),
    /// The settings.
    Settings(Arc<Room<Settings>>),
}

/// What a step leaves to be done after the room's lock is released.
#[derive(Default)]
pub struct Outcome {
    /// Numbers of the connections that failed in this step, with their errors.
    pub lost: Vec<(u64, DriveError)>,
    /// The journal could not be written.
    pub unsaved: Option<std::io::Error>,
}

/// A broadcast, printed once for all members.
pub struct Broadcast {
    json: Arc<[u8]>,
    /// It repeats an output that is in the document.
    is_output: bool,
}

impl Broadcast {
    /// Prints a broadcast.
    pub fn new(body: &Value) -> Self {
        let is_output = body.get("event").and_then(Value::as_str) == Some("output");
        Self { json: body.to_string().into_bytes().into(), is_output }
    }
}

impl Room {
    /// Opens the document of a room.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub fn open(id: &str, journal: Option<&Path>) -> Result<Self, DriveError> {
        let (journal, document) = match journal {
            Some(path) => {
                let (journal, notebook) = Journal::open(path, id)?;
                (Some(journal), notebook)
            }
            None => (None, Notebook::create(id)?),
        };
        Ok(Self::new(id, document, journal))
    }
}

impl Room<Settings> {
    /// Opens the settings.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub fn open_settings(journal: Option<&Path>) -> Result<Self, DriveError> {
        let Some(path) = journal else {
            return Ok(Self::new("", Settings::create()?, None));
        };
        let (mut journal, settings) = Journal::open_settings(path)?;
        // Loading may have migrated settings of an older version.
        journal.record(&settings)?;
        Ok(Self::new("", settings, Some(journal)))
    }
}

impl<D: Replica> Room<D> {
    fn new(id: &str, document: D, journal: Option<Journal>) -> Self {
        let state = RoomState {
            document,
            journal,
            members: Vec::new(),
            poisoned: None,
            closed: false,
            unsaved: false,
        };
        Self { id: id.into(), count: AtomicUsize::new(0), offload: Arc::default(), state: Mutex::new(state) }
    }

    /// Runs one step under the room's lock. A panic poisons this room and nothing else.
    ///
    /// # Errors
    /// Those of `step`; `NotFound` when the room was closed; `Poisoned` when it failed before; `Panic` when it
    /// fails now.
    pub fn step<T>(
        &self,
        outcome: &mut Outcome,
        step: impl FnOnce(&mut RoomState<D>, &mut Outcome) -> Result<T, DriveError>,
    ) -> Result<T, DriveError> {
        let mut state = lock(&self.state);
        if let Some(reason) = &state.poisoned {
            return Err(DriveError::Poisoned(reason.clone()));
        }
        if state.closed {
            return Err(DriveError::NotFound(format!("no such room: {}", self.id)));
        }
        match catch_unwind(AssertUnwindSafe(|| step(&mut state, outcome))) {
            Ok(result) => result,
            Err(payload) => {
                let reason = panic_text(payload.as_ref());
                state.poisoned = Some(reason.clone());
                Err(DriveError::Panic(reason))
            }
        }
    }

    /// Closes the room and removes its members; returns their numbers. A caller that found the room before it left the
    /// registry gets `NotFound` from its next step, so no peer enters a room that cannot be reached any more.
    pub fn close(&self) -> Vec<u64> {
        let mut state = lock(&self.state);
        state.closed = true;
        self.count.store(0, Ordering::Relaxed);
        std::mem::take(&mut state.members).iter().map(|member| member.id()).collect()
    }

    /// Closes the room unless it has members. `unregister` runs under the room's lock, so that a closed room is never
    /// found in the registry.
    ///
    /// # Errors
    /// `Again` when it has members; `NotFound` when it was closed.
    pub fn evict(&self, unregister: impl FnOnce()) -> Result<(), DriveError> {
        let mut state = lock(&self.state);
        if state.closed {
            return Err(DriveError::NotFound(format!("no such room: {}", self.id)));
        }
        if !state.members.is_empty() {
            return Err(DriveError::Again(format!("the room {} has peers", self.id)));
        }
        state.closed = true;
        unregister();
        Ok(())
    }

    /// Adds a member, in a step of this room; returns the number of members now.
    pub fn add_member(&self, state: &mut RoomState<D>, member: Arc<dyn Member>) -> usize {
        state.members.push(member);
        self.count_members(state)
    }

    /// Removes a member, in a step of this room; returns the number of members now.
    pub fn remove_member(&self, state: &mut RoomState<D>, id: u64) -> usize {
        state.members.retain(|member| member.id() != id);
        self.count_members(state)
    }

    fn count_members(&self, state: &RoomState<D>) -> usize {
        self.count.store(state.members.len(), Ordering::Relaxed);
        state.members.len()
    }

    /// Number of members. Never waits.
    pub fn member_count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

impl<D: Replica> RoomState<D> {
    /// After the document changed: records the change, then sends it to every member.
    pub fn changed(&mut self, outcome: &mut Outcome) {
        self.record(outcome);
        self.send_all(true, &[], 0, outcome);
    }

    /// Appends the change to the journal. To be done before any member gets it, so that nothing is acknowledged that a
    /// crash could lose.
    fn record(&mut self, outcome: &mut Outcome) {
        let Some(journal) = &mut self.journal else { return };
        match journal.record(&self.document) {
            Ok(()) => self.unsaved = false,
            Err(error) => {
                // One report per outage; each further change tries again.
                if !std::mem::replace(&mut self.unsaved, true) {
                    outcome.unsaved = Some(error);
                }
            }
        }
    }

    /// Sends every member the change, if there is one, then the broadcasts.
    fn send_all(&mut self, changed: bool, broadcasts: &[Broadcast], cause: u64, outcome: &mut Outcome) {
        let document: &dyn Doc = &self.document;
        let lost = &mut outcome.lost;
        self.members.retain(|member| {
            let sent = member.send(Some(document), &|outbox| {
                if changed {
                    outbox.document_moved();
                }
                for broadcast in broadcasts {
                    // A peer that reads outputs from the document does not get them a second time.
                    if !(broadcast.is_output && outbox.omits_outputs()) {
                        outbox.broadcast(&broadcast.json, cause);
                    }
                }
            });
            match sent {
                Ok(()) => true,
                Err(error) => {
                    lost.push((member.id(), error));
                    false
                }
            }
        });
    }

    /// Sends one broadcast to one member, after the changes before it.
    ///
    /// # Errors
    /// `NotFound` when it is not a member of this room (any more).
    pub fn send(&mut self, id: u64, broadcast: &Value, outcome: &mut Outcome) -> Result<(), DriveError> {
        let position = self.members.iter().position(|member| member.id() == id);
        let position =
            position.ok_or_else(|| DriveError::NotFound(format!("no such peer in a room: {id}")))?;
        let json: Arc<[u8]> = broadcast.to_string().into_bytes().into();
        let sent = self.members[position].send(Some(&self.document), &|outbox| outbox.broadcast(&json, 0));
        if let Err(error) = sent {
            self.members.remove(position);
            outcome.lost.push((id, error));
        }
        Ok(())
    }
}

impl RoomState {
    /// Applies operations as one change and sends it to every member, then the broadcasts.
    ///
    /// # Errors
    /// Those of the operations; nothing changed then and nothing is broadcast.
    pub fn publish(
        &mut self,
        ops: &[Op],
        broadcasts: &[Broadcast],
        cause: u64,
        outcome: &mut Outcome,
    ) -> Result<(), DriveError> {
        let changed = !ops.is_empty() && self.document.edit(ops)?;
        if changed {
            self.record(outcome);
        }
        self.send_all(changed, broadcasts, cause, outcome);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::Outbox;

    #[test]
    fn a_panic_breaks_its_room_with_a_reason_and_no_other() {
        let room = Room::open("n", None).unwrap();
        let other = Room::open("m", None).unwrap();
        let failed = room.step(&mut Outcome::default(), |_, _| -> Result<(), DriveError> { panic!("boom") });
        assert!(matches!(&failed, Err(DriveError::Panic(text)) if text.contains("boom")));
        let after = room.step(&mut Outcome::default(), |_, _| Ok(()));
        assert!(matches!(&after, Err(DriveError::Poisoned(text)) if text.contains("boom")));
        assert!(other.step(&mut Outcome::default(), |_, _| Ok(())).is_ok());
    }

    #[test]
    fn a_refused_operation_changes_and_sends_nothing() {
        let room = Room::open("n", None).unwrap();
        let mut outcome = Outcome::default();
        let ops = [Op::insert_cell("a", "code", "", None), Op::DeleteCell { cell_id: "nowhere".into() }];
        let result = room.step(&mut outcome, |state, outcome| state.publish(&ops, &[], 0, outcome));
        assert!(matches!(result, Err(DriveError::NotFound(_))));
        let cells = room.step(&mut outcome, |state, _| Ok(state.document.cells().len()));
        assert_eq!(cells.unwrap(), 0);
    }

    /// Notes whether the journal had the document's changes whenever they were sent.
    struct Reader {
        journal: std::path::PathBuf,
        recorded: Mutex<Vec<bool>>,
    }

    impl Member for Reader {
        fn id(&self) -> u64 {
            1
        }

        fn send(&self, document: Option<&dyn Doc>, _: &dyn Fn(&mut Outbox)) -> Result<(), DriveError> {
            let saved = Notebook::load(&std::fs::read(&self.journal).unwrap()).unwrap();
            let heads = document.unwrap().doc().get_heads();
            lock(&self.recorded).push(saved.heads() == heads);
            Ok(())
        }
    }

    #[test]
    fn a_change_is_in_the_journal_before_it_is_sent() {
        let dir = std::env::temp_dir().join(format!("rtd-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&dir).unwrap();
        let journal = dir.join("n.automerge");
        let room = Room::open("n", Some(&journal)).unwrap();
        let reader = Arc::new(Reader { journal, recorded: Mutex::default() });
        let mut outcome = Outcome::default();
        let step = |state: &mut RoomState, outcome: &mut Outcome| {
            room.add_member(state, Arc::clone(&reader) as _);
            let insert = |id: &str| [Op::insert_cell(id, "code", "", None)];
            // An edit of the host program, then the way of all other changes.
            state.publish(&insert("a"), &[], 0, outcome)?;
            state.document.edit(&insert("b"))?;
            state.changed(outcome);
            Ok(())
        };
        room.step(&mut outcome, step).unwrap();
        assert_eq!(*lock(&reader.recorded), [true, true]);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn each_outage_of_the_journal_is_reported_once_and_caught_up_with() {
        let dir = std::env::temp_dir().join(format!("rtd-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&dir).unwrap();
        let path = dir.join("n.automerge");
        let room = Room::open("n", Some(&path)).unwrap();
        let edit = |id: &str| {
            let mut outcome = Outcome::default();
            let ops = [Op::insert_cell(id, "code", "", None)];
            room.step(&mut outcome, |state, outcome| state.publish(&ops, &[], 0, outcome)).unwrap();
            outcome.unsaved.is_some()
        };
        let mut ids = Vec::new();
        for outage in ["first", "second"] {
            let place = dir.join(outage);
            let path = place.join("n.automerge");
            room.step(&mut Outcome::default(), |state, _| {
                state.journal.as_mut().unwrap().break_for_test(&path);
                Ok(())
            })
            .unwrap();
            let new = ["a", "b", "c"].map(|id| format!("{id} of the {outage}"));
            assert!(edit(&new[0]), "the {outage} outage is reported");
            assert!(!edit(&new[1]), "it is the same outage");
            std::fs::create_dir(&place).unwrap();
            assert!(!edit(&new[2]));
            ids.extend(new);
            let saved = Notebook::load(&std::fs::read(&path).unwrap()).unwrap();
            assert_eq!(saved.cell_ids(), ids, "nothing of the {outage} outage is lost");
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
