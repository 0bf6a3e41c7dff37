//! A document, its journal, and the peers that share it: a room, or the settings.
//!
//! Lock order: room, then peer, then the host's tables.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::journal::Journal;
use super::offload::Aside;
use super::peer::Peer;
use crate::drive::{lock, panic_text, DriveError};
use crate::notebook::{Notebook, Op};
use crate::replica::{Doc, Replica};
use crate::settings::Settings;

/// What a room shares between the I/O thread and the host program.
pub struct Room<D = Notebook> {
    /// The notebook id, byte for byte; empty for the settings.
    pub id: String,
    /// Number of peers. Whoever lists the rooms must not wait for one that is busy.
    peers: AtomicUsize,
    /// Turns that the I/O thread does not do itself.
    pub aside: Arc<Aside>,
    state: Mutex<RoomState<D>>,
}

/// The document and who is there. Held locked for every step, so that each peer sees changes and
/// broadcasts in one order.
pub struct RoomState<D = Notebook> {
    pub document: D,
    journal: Option<Journal>,
    pub peers: Vec<Arc<Peer>>,
    /// Why the room cannot be used any more.
    pub broken: Option<String>,
    shut: bool,
    unsaved: bool,
}

/// Where a peer is.
pub enum Home {
    Room(Arc<Room>),
    Settings(Arc<Room<Settings>>),
}

/// What a step left to tell the host program.
#[derive(Default)]
pub struct Outcome {
    /// Peers whose connection ended in this step, with the reason.
    pub lost: Vec<(Arc<Peer>, DriveError)>,
    /// The journal could not be written.
    pub unsaved: Option<std::io::Error>,
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
        Ok(Self::over(id, document, journal))
    }
}

impl Room<Settings> {
    /// Opens the settings.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub fn open_settings(journal: Option<&Path>) -> Result<Self, DriveError> {
        let Some(path) = journal else {
            return Ok(Self::over("", Settings::create()?, None));
        };
        let (mut journal, settings) = Journal::open_settings(path)?;
        // Loading may have moved what an older program wrote.
        journal.record(&settings)?;
        Ok(Self::over("", settings, Some(journal)))
    }
}

impl<D: Replica> Room<D> {
    fn over(id: &str, document: D, journal: Option<Journal>) -> Self {
        let state =
            RoomState { document, journal, peers: Vec::new(), broken: None, shut: false, unsaved: false };
        Self { id: id.into(), peers: AtomicUsize::new(0), aside: Arc::default(), state: Mutex::new(state) }
    }

    /// Runs one step under the room's lock. A panic breaks this room and nothing else.
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
        if let Some(reason) = &state.broken {
            return Err(DriveError::Poisoned(reason.clone()));
        }
        if state.shut {
            return Err(DriveError::NotFound(format!("no such room: {}", self.id)));
        }
        match catch_unwind(AssertUnwindSafe(|| step(&mut state, outcome))) {
            Ok(result) => result,
            Err(payload) => {
                let reason = panic_text(payload.as_ref());
                state.broken = Some(reason.clone());
                Err(DriveError::Panic(reason))
            }
        }
    }

    /// Closes the room and takes its peers out. Whoever found it before it left the table is refused at
    /// the next step; a peer that entered now would wait in a room that nobody can reach.
    pub fn shut(&self) -> Vec<Arc<Peer>> {
        let mut state = lock(&self.state);
        state.shut = true;
        self.peers.store(0, Ordering::Relaxed);
        std::mem::take(&mut state.peers)
    }

    /// Closes the room unless a peer is in it. It is taken out of its table meanwhile, so that nobody finds a closed one.
    ///
    /// # Errors
    /// `Again` when somebody is in it; `NotFound` when it was closed.
    pub fn evict(&self, take_out: impl FnOnce()) -> Result<(), DriveError> {
        let mut state = lock(&self.state);
        if state.shut {
            return Err(DriveError::NotFound(format!("no such room: {}", self.id)));
        }
        if !state.peers.is_empty() {
            return Err(DriveError::Again(format!("somebody is in the room {}", self.id)));
        }
        state.shut = true;
        take_out();
        Ok(())
    }

    /// To be called when a peer came or went, before anybody is told: the number of peers now.
    pub fn count_peers(&self, state: &RoomState<D>) -> usize {
        self.peers.store(state.peers.len(), Ordering::Relaxed);
        state.peers.len()
    }

    /// Number of peers. Never waits.
    pub fn peer_count(&self) -> usize {
        self.peers.load(Ordering::Relaxed)
    }
}

impl<D: Replica> RoomState<D> {
    /// After the document moved: record it, then let every peer know. Recording comes first, so that
    /// nothing is acknowledged that a crash could lose.
    pub fn moved(&mut self, outcome: &mut Outcome) {
        if let Some(journal) = &mut self.journal {
            match journal.record(&self.document) {
                Ok(()) => self.unsaved = false,
                Err(error) => {
                    // Told once per outage; each further change tries again.
                    if !std::mem::replace(&mut self.unsaved, true) {
                        outcome.unsaved = Some(error);
                    }
                }
            }
        }
        for peer in &self.peers {
            lock(&peer.state).server.outbox.document_moved();
        }
    }

    /// Sends every peer what it can take now.
    pub fn flush_all(&mut self, outcome: &mut Outcome) {
        let document: &dyn Doc = &self.document;
        let lost = &mut outcome.lost;
        self.peers.retain(|peer| match peer.flush(Some(document)) {
            Ok(()) => true,
            Err(error) => {
                lost.push((Arc::clone(peer), error));
                false
            }
        });
    }
}

impl RoomState {
    /// Applies operations as one change, then queues the broadcasts behind it for every peer.
    ///
    /// # Errors
    /// Those of the operations; nothing changed then and nothing is broadcast.
    pub fn publish(
        &mut self,
        ops: &[Op],
        broadcasts: &[Value],
        cause: u64,
        outcome: &mut Outcome,
    ) -> Result<(), DriveError> {
        if !ops.is_empty() && self.document.edit(ops)? {
            self.moved(outcome);
        }
        for broadcast in broadcasts {
            let json: Arc<[u8]> = broadcast.to_string().into_bytes().into();
            for peer in &self.peers {
                lock(&peer.state).server.outbox.broadcast(&json, cause);
            }
        }
        self.flush_all(outcome);
        Ok(())
    }

    /// Queues a broadcast for one peer, behind the changes before it, and sends what it can take now.
    ///
    /// # Errors
    /// `NotFound` when the peer is not in this room any more.
    pub fn send(
        &mut self,
        peer: &Arc<Peer>,
        broadcast: &Value,
        outcome: &mut Outcome,
    ) -> Result<(), DriveError> {
        if !self.peers.iter().any(|other| other.id == peer.id) {
            return Err(DriveError::NotFound(format!("no such peer in a room: {}", peer.id)));
        }
        lock(&peer.state).server.outbox.broadcast(&broadcast.to_string().into_bytes().into(), 0);
        self.flush_all(outcome);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn a_journal_that_cannot_be_written_is_told_once_and_caught_up_with() {
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
        room.step(&mut Outcome::default(), |state, _| {
            state.journal.as_mut().unwrap().break_for_test(&dir.join("gone/n.automerge"));
            Ok(())
        })
        .unwrap();
        assert!(edit("a"), "the first failure is told");
        assert!(!edit("b"), "the next one is the same outage");
        std::fs::create_dir(dir.join("gone")).unwrap();
        assert!(!edit("c"));
        let saved = Notebook::load(&std::fs::read(dir.join("gone/n.automerge")).unwrap()).unwrap();
        assert_eq!(saved.cell_ids(), ["a", "b", "c"], "nothing of the outage is lost");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
