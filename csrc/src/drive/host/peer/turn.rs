//! The turn of a peer that shares a document: what it wrote is applied, told and sent on.

use std::sync::atomic::Ordering;
use std::sync::Arc;

use serde_json::{json, Value};

use super::super::hub::{HostShared, Hosted};
use super::super::offload::{guarded, may_take_long, Aside};
use super::super::room::{Home, Outcome, Room, RoomState};
use super::Peer;
use crate::code::code;
use crate::code::rtd_channel::RTD_CHANNEL_NOTEBOOK;
use crate::code::rtd_code::RTD_E_PANIC;
use crate::code::rtd_event_kind::{RTD_EV_ROOM_CHANGED, RTD_EV_SETTINGS_CHANGED};
use crate::connection::{Event, Hint, ServerEvent};
use crate::drive::{lock, DriveError};
use crate::notebook::Notebook;
use crate::settings::Settings;

/// What a turn is about.
#[derive(Clone, Copy)]
pub(super) struct Turn {
    /// Something may be there to be read.
    pub(super) readable: bool,
    /// The time limit of requests that wait for changes has passed.
    pub(super) late: bool,
}

/// Where a turn is done.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// On the I/O thread, where nothing may take long.
    Here,
    Aside,
}

/// A turn that cannot be done on the I/O thread.
struct TooLong;

impl Peer {
    /// The turn of a peer in the room of a notebook.
    fn turn_in_room(
        self: &Arc<Self>,
        host: &Arc<HostShared>,
        room: &Arc<Room>,
        turn: Turn,
        place: Place,
    ) -> Result<(), TooLong> {
        let request = |notebook: &Notebook, body: Vec<u8>, request_id| {
            let body = with_sources(body, notebook);
            host.expect(self, RTD_CHANNEL_NOTEBOOK, &room.id, body, request_id)
        };
        let changed = |hint| {
            let mut event = Event::new(RTD_EV_ROOM_CHANGED);
            event.id.clone_from(&room.id);
            event.hint = Some(hint);
            Some(event)
        };
        self.turn_inside(host, room, turn, place, request, changed)
    }

    /// The turn of a peer at the settings. There are no requests; a change is told once until it was read.
    fn turn_at_settings(
        self: &Arc<Self>,
        host: &Arc<HostShared>,
        room: &Arc<Room<Settings>>,
        turn: Turn,
        place: Place,
    ) -> Result<(), TooLong> {
        let request = |_: &Settings, body, request_id| {
            host.expect(self, RTD_CHANNEL_NOTEBOOK, &room.id, body, request_id)
        };
        let changed = |_| {
            let told = host.settings_unread.swap(true, Ordering::Relaxed);
            (!told).then(|| Event::new(RTD_EV_SETTINGS_CHANGED))
        };
        self.turn_inside(host, room, turn, place, request, changed)
    }

    /// The turn of a peer that shares a document, under the lock of that.
    fn turn_inside<D: Hosted>(
        self: &Arc<Self>,
        host: &Arc<HostShared>,
        room: &Arc<Room<D>>,
        turn: Turn,
        place: Place,
        request: impl Fn(&D, Vec<u8>, Option<Value>) -> Event,
        changed: impl FnOnce(Hint) -> Option<Event>,
    ) -> Result<(), TooLong> {
        let _announcer = host.queue.announcer();
        let mut outcome = Outcome::default();
        let step = |state: &mut RoomState<D>, outcome: &mut Outcome| {
            if lock(&self.state).gone {
                // What it wrote is not to be found in the journal of a host that was closed.
                return Ok(Ok(()));
            }
            lock(&self.watch).parked = false;
            let ended = if turn.readable { self.read()? } else { false };
            if place == Place::Here && may_take_long(lock(&self.state).server.pending()) {
                return Ok(Err(TooLong));
            }
            if turn.late {
                lock(&self.state).server.stop_deferring();
            }
            self.work(state, outcome, ended, request, changed, |event| host.queue.push(event))?;
            if ended {
                self.end()?;
            }
            Ok(Ok(()))
        };
        let result = room.aside.timed(|| room.step(&mut outcome, step));
        host.after(room, outcome);
        match result {
            Ok(result) => return result,
            Err(DriveError::Panic(reason)) => host.break_room(room, code(RTD_E_PANIC), &reason),
            Err(error) => host.drop_peer(self, &error),
        }
        Ok(())
    }

    /// Does what was read: applies changes, tells the host program, sends to everybody. When nothing more comes,
    /// because the peer has `ended`, its requests wait for no changes any longer.
    fn work<D: Hosted>(
        &self,
        state: &mut RoomState<D>,
        outcome: &mut Outcome,
        ended: bool,
        request: impl Fn(&D, Vec<u8>, Option<Value>) -> Event,
        changed: impl FnOnce(Hint) -> Option<Event>,
        tell: impl Fn(Event),
    ) -> Result<(), DriveError> {
        let before = state.document.doc().get_heads();
        let mut hint = Hint::default();
        let mut requests = Vec::new();
        let result = loop {
            match self.next(Some(&mut state.document)) {
                Ok(Some(ServerEvent::Synced(changes))) => hint.merge(D::hint(&changes)),
                Ok(Some(ServerEvent::Request { body, request_id })) => {
                    requests.push(request(&state.document, body, request_id));
                }
                Ok(None) if ended && lock(&self.state).server.is_deferring() => {
                    lock(&self.state).server.stop_deferring();
                }
                Ok(Some(_) | None) => {
                    self.time_deferral();
                    break Ok(());
                }
                // Frames before the bad one count.
                Err(error) => break Err(error),
            }
        };
        let moved = state.document.doc().get_heads() != before;
        if moved {
            changed(hint).into_iter().for_each(&tell);
        }
        requests.into_iter().for_each(tell);
        if moved {
            state.moved(outcome);
            state.flush_all(outcome);
        } else if result.is_ok() {
            self.flush(Some(&state.document))?;
        }
        result
    }

    /// Has a turn done aside; the peer is not watched until then.
    fn put_aside(
        self: &Arc<Self>,
        host: &Arc<HostShared>,
        aside: &Arc<Aside>,
        turn: impl FnOnce(&Arc<Self>, &Arc<HostShared>) + Send + 'static,
    ) {
        if let Err(error) = self.watch_for(false, false, true) {
            return host.drop_peer(self, &error.into());
        }
        let turn = {
            let (me, host) = (Arc::clone(self), Arc::clone(host));
            move || turn(&me, &host)
        };
        let failed = {
            let (me, host) = (Arc::clone(self), Arc::clone(host));
            move |reason| host.drop_peer(&me, &DriveError::Panic(reason))
        };
        aside.enqueue(&host.crew, guarded(turn, failed));
    }

    /// Does a turn of a peer that shares a document, here if nobody has to wait for it.
    pub(super) fn turn(self: &Arc<Self>, host: &Arc<HostShared>, home: &Home, turn: Turn) {
        match home {
            Home::Room(room) => {
                if room.aside.is_due() || self.turn_in_room(host, room, turn, Place::Here).is_err() {
                    let there = Arc::clone(room);
                    self.put_aside(host, &room.aside, move |me, host| {
                        let _done = me.turn_in_room(host, &there, turn, Place::Aside);
                    });
                }
            }
            Home::Settings(room) => {
                if room.aside.is_due() || self.turn_at_settings(host, room, turn, Place::Here).is_err() {
                    let there = Arc::clone(room);
                    self.put_aside(host, &room.aside, move |me, host| {
                        let _done = me.turn_at_settings(host, &there, turn, Place::Aside);
                    });
                }
            }
        }
    }
}

/// A request to execute, with the member `at_request`: the cells it means, as the document has them
/// at this moment. Edits that follow it must not change what runs (protocol 2, section 5.9), and the
/// host program sees the request only when they may have been applied.
fn with_sources(body: Vec<u8>, notebook: &Notebook) -> Vec<u8> {
    #[derive(serde::Deserialize)]
    struct Head {
        action: String,
        cell_id: Option<String>,
    }
    let Ok(head) = serde_json::from_slice::<Head>(&body) else { return body };
    let cells = match (head.action.as_str(), head.cell_id) {
        ("execute_cell", Some(id)) => notebook.cell(&id).into_iter().collect(),
        ("run_all_cells", _) => notebook.cells(),
        _ => return body,
    };
    let Ok(mut members) = serde_json::from_slice::<serde_json::Map<String, Value>>(&body) else {
        return body;
    };
    let cells = cells
        .iter()
        .map(|cell| json!({"id": cell.id, "cell_type": cell.cell_type, "source": cell.source}))
        .collect();
    members.insert("at_request".into(), Value::Array(cells));
    Value::Object(members).to_string().into_bytes()
}
