//! Storey 3, host: rooms before their peers enter, and copies of their documents that are edited apart and merged.
//!
//! What a room holds from the beginning (a notebook file) must be in it before the first peer sees the document: a
//! client that sees an empty room may fill it.

use std::path::Path;
use std::sync::Arc;

use super::api::Host;
use super::room::Room;
use crate::drive::{lock, DriveError};
use crate::notebook::Notebook;

impl Host {
    /// Opens a room and lets in the peers that wait for it. The document is loaded on this thread.
    ///
    /// # Errors
    /// As [`Host::prepare_room`].
    pub fn open_room(&self, id: &str, journal: Option<&Path>) -> Result<(), DriveError> {
        self.prepare_room(id, journal)?;
        self.admit(id)
    }

    /// Opens a room that no peer enters before [`Host::admit`]. The document is loaded on this thread.
    ///
    /// # Errors
    /// `State` when the room is open or prepared; `Corrupt` or `Io` from the journal. Peers go on waiting.
    pub fn prepare_room(&self, id: &str, journal: Option<&Path>) -> Result<(), DriveError> {
        self.check_open()?;
        let open = || DriveError::State(format!("the room is open: {id}"));
        if lock(&self.hub.registry).room(id).is_some() {
            return Err(open());
        }
        let room = Arc::new(Room::open(id, journal)?);
        let mut registry = lock(&self.hub.registry);
        if registry.room(id).is_some() {
            return Err(open());
        }
        registry.prepared.insert(id.into(), room);
        Ok(())
    }

    /// Lets the peers into a prepared room.
    ///
    /// # Errors
    /// `NotFound` when there is no prepared room of this name.
    pub fn admit(&self, id: &str) -> Result<(), DriveError> {
        self.check_open()?;
        let (room, waiting) = {
            let mut registry = lock(&self.hub.registry);
            let room = registry.prepared.remove(id);
            let room = room.ok_or_else(|| DriveError::NotFound(format!("no prepared room: {id}")))?;
            registry.rooms.insert(id.into(), Arc::clone(&room));
            (room, registry.wanted.remove(id).unwrap_or_default())
        };
        for peer in waiting {
            self.hub.enter(&peer, &room);
        }
        Ok(())
    }

    /// Merges a copy of a room's document into the room, and sends the change to the peers.
    ///
    /// # Errors
    /// `NotFound`; `Argument` when it is no copy of this room's document; `Poisoned`.
    pub fn merge(&self, id: &str, copy: &Notebook) -> Result<(), DriveError> {
        self.check_open()?;
        let room = self.hub.room(id)?;
        self.hub.step(&room, |state, outcome| {
            if state.document.merge(copy)? {
                state.changed(outcome);
            }
            Ok(())
        })
    }
}
