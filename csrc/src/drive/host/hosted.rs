//! Storey 3, host: a document that a host shares: what differs between a notebook and the settings.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use serde_json::{json, Value};

use super::registry::Registry;
use super::room::{Membership, Room};
use crate::code::rtd_event_kind::{self, *};
use crate::connection::{Event, Hint};
use crate::notebook::{Cell, Notebook};
use crate::replica::Replica;
use crate::settings::Settings;
use crate::wire::v2::Targets;

/// Which changes by peers become events.
pub struct ChangeEvents {
    /// Those of rooms.
    pub watch_rooms: bool,
    /// An event about the settings waits, or was taken and the settings not read since: no second one then.
    pub settings_unread: AtomicBool,
}

/// A document that a host shares: what differs between a notebook and the settings.
pub trait Hosted: Replica + Sized + Send + 'static {
    /// The event of a failure.
    const FAILED: rtd_event_kind;
    /// Removes its room from the registry, unless another one has been opened in its place.
    fn unregister(registry: &mut Registry, room: &Room<Self>);
    /// What a peer in its room takes part in.
    fn membership(room: Arc<Room<Self>>) -> Membership;
    /// The content of a change event.
    fn hint(changes: &Self::Changes) -> Hint;
    /// The event of a change by a peer, if the host program is to have one.
    fn changed_event(events: &ChangeEvents, room: &Room<Self>, hint: Hint) -> Option<Event>;
    /// The cells that a request means, as they are now; `None` when it means none.
    fn cells_of(&self, targets: &Targets) -> Option<Value>;
}

impl Hosted for Notebook {
    const FAILED: rtd_event_kind = RTD_EV_ROOM_FAILED;

    fn unregister(registry: &mut Registry, room: &Room) {
        for rooms in [&mut registry.rooms, &mut registry.prepared] {
            if rooms.get(&room.id).is_some_and(|open| std::ptr::eq(&**open, room)) {
                rooms.remove(&room.id);
            }
        }
    }

    fn membership(room: Arc<Room>) -> Membership {
        Membership::Room(room)
    }

    fn hint(changes: &Self::Changes) -> Hint {
        Hint::new(changes)
    }

    fn changed_event(events: &ChangeEvents, room: &Room, hint: Hint) -> Option<Event> {
        let event = || Event { id: room.id.clone(), hint: Some(hint), ..Event::new(RTD_EV_ROOM_CHANGED) };
        events.watch_rooms.then(event)
    }

    fn cells_of(&self, targets: &Targets) -> Option<Value> {
        let cells = match targets {
            Targets::None => return None,
            Targets::Cell(id) => self.cell(id).into_iter().collect(),
            Targets::AllCells => self.cells(),
        };
        let as_json = |cell: Cell| json!({"id": cell.id, "cell_type": cell.cell_type, "source": cell.source});
        Some(cells.into_iter().map(as_json).collect())
    }
}

impl Hosted for Settings {
    const FAILED: rtd_event_kind = RTD_EV_SETTINGS_FAILED;

    fn unregister(registry: &mut Registry, room: &Room<Self>) {
        if registry.settings.as_deref().is_some_and(|open| std::ptr::eq(open, room)) {
            registry.settings = None;
        }
    }

    fn membership(room: Arc<Room<Self>>) -> Membership {
        Membership::Settings(room)
    }

    fn hint(_changes: &Self::Changes) -> Hint {
        Hint::default()
    }

    fn changed_event(events: &ChangeEvents, _room: &Room<Self>, _hint: Hint) -> Option<Event> {
        // One event until the host program has read the settings.
        let pending = events.settings_unread.swap(true, Ordering::Relaxed);
        (!pending).then(|| Event::new(RTD_EV_SETTINGS_CHANGED))
    }

    fn cells_of(&self, _targets: &Targets) -> Option<Value> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_that_was_replaced_unregisters_no_other() {
        let mut registry = Registry::default();
        let [old, new] = [(); 2].map(|()| Arc::new(Room::open("n", None).unwrap()));
        registry.rooms.insert("n".into(), Arc::clone(&new));
        Notebook::unregister(&mut registry, &old);
        assert!(registry.room("n").is_some());
        Notebook::unregister(&mut registry, &new);
        assert!(registry.room("n").is_none());
        let [old, new] = [(); 2].map(|()| Arc::new(Room::open_settings(None).unwrap()));
        registry.settings = Some(Arc::clone(&new));
        Settings::unregister(&mut registry, &old);
        assert!(registry.settings.is_some());
        Settings::unregister(&mut registry, &new);
        assert!(registry.settings.is_none());
    }
}
