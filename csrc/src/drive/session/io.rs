//! The session on the I/O thread: bytes in, bytes out, time limits, the end.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::core::{Core, Purpose};
use crate::code::code;
use crate::code::rtd_code::{RTD_E_CLOSED, RTD_E_IO, RTD_E_PANIC, RTD_E_PROTOCOL, RTD_E_TIMEOUT};
use crate::code::rtd_event_kind::{RTD_EV_CLOSED, RTD_EV_READY};
use crate::connection::{ClientEvent, Event, Millis, Strategy};
use crate::drive::queue::Queue;
use crate::drive::reactor::{Handler, Reactor};
use crate::drive::{address, lock, DriveError};
use crate::outputs::BlobStore;

/// Above this many unsent bytes, local changes wait and coalesce into one sync message.
const OUT_MARK: usize = 256 * 1024;
/// Bytes read before other sockets get their turn.
const READ_BUDGET: usize = 1024 * 1024;

const LEFT: &str = "closed by this side";
/// A session that leaves gives up when the daemon has taken nothing for so long.
const LEAVE_LIMIT: Millis = 10_000;

/// What the I/O thread and the host program share of a session.
pub(super) struct Shared {
    pub(super) reactor: Arc<Reactor>,
    pub(super) key: usize,
    pub(super) pid: u32,
    pub(super) stream: UnixStream,
    pub(super) socket_path: PathBuf,
    pub(super) notebook_id: String,
    pub(super) blobs_dir: Option<PathBuf>,
    pub(super) blobs: Mutex<Option<Arc<BlobStore>>>,
    pub(super) core: Mutex<Core>,
    pub(super) queue: Queue,
}

impl Shared {
    /// Sends what can be sent, hands out what happened, and sets the timer. Called after every step.
    pub(super) fn settle(&self, core: &mut Core) {
        if core.closed.is_some() {
            return;
        }
        self.hand_out(core);
        if core.closed.is_some() {
            return;
        }
        if let Err(error) = self.flush(core) {
            // What the daemon said last may still be readable; its end of stream ends the session.
            if !matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) {
                self.end(core, code(RTD_E_IO), &error.to_string());
                return;
            }
        }
        if core.leaving.is_some() && !core.owes() {
            self.end(core, 0, LEFT);
            return;
        }
        self.reactor.set_timer(self.key, core.deadline());
    }

    pub(super) fn flush(&self, core: &mut Core) -> io::Result<()> {
        loop {
            if core.changes_wait && core.out.len() - core.sent < OUT_MARK {
                if let Err(error) = core.flush_changes() {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error.to_string()));
                }
            }
            core.client.take_output(&mut core.out);
            if core.sent == core.out.len() {
                core.out.clear();
                core.sent = 0;
                return self.want_writable(core, false);
            }
            match address::send(&self.stream, &core.out[core.sent..]) {
                Ok(count) => {
                    core.sent += count;
                    // Slow is not dead: the limit counts from the last byte that was taken.
                    core.leaving = core.leaving.map(|_| self.reactor.now() + LEAVE_LIMIT);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return self.want_writable(core, true)
                }
                Err(error) => {
                    core.out.clear();
                    core.sent = 0;
                    self.want_writable(core, false)?;
                    return Err(error);
                }
            }
            if core.sent * 2 >= core.out.len() {
                core.out.drain(..core.sent);
                core.sent = 0;
            }
        }
    }

    pub(super) fn want_writable(&self, core: &mut Core, writable: bool) -> io::Result<()> {
        if core.watching_writable != writable {
            self.reactor.rewatch(self.key, &self.stream, true, writable)?;
            core.watching_writable = writable;
        }
        Ok(())
    }

    pub(super) fn receive(&self, core: &mut Core) {
        let mut buffer = vec![0_u8; 64 * 1024];
        let mut budget = READ_BUDGET;
        while budget > 0 && core.closed.is_none() {
            match (&self.stream).read(&mut buffer) {
                Ok(0) => {
                    let text = match core.client.eof() {
                        Ok(()) => "Disconnected".to_owned(),
                        Err(error) => format!("Disconnected: {error}"),
                    };
                    return self.end(core, code(RTD_E_CLOSED), &text);
                }
                Ok(count) => {
                    budget = budget.saturating_sub(count);
                    core.client.push(&buffer[..count]);
                    self.process(core);
                    if count < buffer.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // A daemon that closes with unread bytes of ours shows as a reset (section 2.4).
                Err(error) => return self.end(core, code(RTD_E_CLOSED), &format!("Disconnected: {error}")),
            }
        }
        self.settle(core);
    }

    pub(super) fn process(&self, core: &mut Core) {
        loop {
            let now = self.reactor.now();
            let event = match core.client.next(&mut core.notebook, now) {
                Ok(Some(event)) => event,
                Ok(None) => return,
                Err(error) => {
                    let text = error.to_string();
                    return self.end(core, code(RTD_E_PROTOCOL), &text);
                }
            };
            let need = match event {
                ClientEvent::Capabilities(capabilities) => {
                    core.capabilities = capabilities;
                    if core.client.extended() {
                        core.runs.set_strategy(Strategy::FinalEvent);
                    }
                    Ok(())
                }
                ClientEvent::Ready => {
                    core.connect_deadline = None;
                    let mut event = Event::new(RTD_EV_READY);
                    event.payload = Value::Object(core.capabilities.clone()).to_string().into_bytes();
                    self.queue.push(event);
                    Ok(())
                }
                ClientEvent::Changed(changes) => {
                    self.changed(core, &changes);
                    Ok(())
                }
                ClientEvent::Response { token, body } => self.responded(core, token, body),
                ClientEvent::Broadcast(body) => self.broadcast(core, body, now),
            };
            if let Err(error) = need {
                return self.end(core, code(RTD_E_PROTOCOL), &error.to_string());
            }
        }
    }

    pub(super) fn expire(&self, core: &mut Core) {
        let now = self.reactor.now();
        let due = |deadline: Option<Millis>| deadline.is_some_and(|at| at <= now);
        if due(core.connect_deadline) {
            return self.end(core, code(RTD_E_TIMEOUT), "Connection timeout");
        }
        if due(core.leaving) {
            return if core.is_unsent() {
                self.end(
                    core,
                    code(RTD_E_TIMEOUT),
                    "the daemon did not take everything that was written here",
                )
            } else {
                self.end(core, 0, LEFT)
            };
        }
        for place in (0..core.requests.len()).rev() {
            if due(core.requests[place].deadline) {
                let token = core.requests.remove(place).token;
                for purpose in core.purposes.values_mut() {
                    if matches!(purpose, Purpose::Request(other) if *other == token) {
                        *purpose = Purpose::Abandoned;
                    }
                }
                self.response_failed(token, code(RTD_E_TIMEOUT), "Connection timeout");
            }
        }
        for place in (0..core.syncs.len()).rev() {
            if due(core.syncs[place].deadline) {
                let token = core.syncs.remove(place).token;
                for purpose in core.purposes.values_mut() {
                    if matches!(purpose, Purpose::Sync(other) if *other == token) {
                        *purpose = Purpose::Abandoned;
                    }
                }
                self.synced(token, code(RTD_E_TIMEOUT), "Connection timeout");
            }
        }
        let need = core.runs.tick(now);
        let ticked = core.client.tick(&core.notebook, now).map_err(DriveError::from);
        if let Err(error) = self.serve(core, need).and(ticked) {
            self.end(core, code(RTD_E_IO), &error.to_string());
        }
        self.settle(core);
    }

    /// Leaves as soon as the daemon has what was written here. Every waiter gets its terminal event at once.
    pub(super) fn leave(&self, core: &mut Core) {
        if core.is_over() {
            return;
        }
        if core.poisoned || !core.owes() {
            return self.end(core, 0, LEFT);
        }
        core.leaving = Some(self.reactor.now() + LEAVE_LIMIT);
        self.end_waiting(core, 0, LEFT);
        self.settle(core);
    }

    /// Ends the session: every waiter gets its terminal event, then `Closed`.
    pub(super) fn end(&self, core: &mut Core, code: i32, text: &str) {
        if core.closed.is_some() {
            return;
        }
        core.closed = Some(text.into());
        self.reactor.forget(self.key, Some(&self.stream));
        let _peer_is_gone = self.stream.shutdown(std::net::Shutdown::Both);
        self.end_waiting(core, code, text);
        let mut event = Event::new(RTD_EV_CLOSED);
        event.code = code;
        event.text = text.into();
        self.queue.push(event);
    }

    fn end_waiting(&self, core: &mut Core, code: i32, text: &str) {
        let waiting = if code == 0 { RTD_E_CLOSED as i32 } else { code };
        core.held.clear();
        core.runs.disconnected(text);
        self.deliver_runs(core);
        for request in std::mem::take(&mut core.requests) {
            self.response_failed(request.token, waiting, text);
        }
        for sync in std::mem::take(&mut core.syncs) {
            self.synced(sync.token, waiting, text);
        }
        core.purposes.clear();
        core.barrier_state = None;
    }
}

impl Handler for Shared {
    fn ready(&self, readable: bool, writable: bool) {
        let _announcer = self.queue.announcer();
        let mut core = lock(&self.core);
        if core.closed.is_some() {
            return;
        }
        if readable {
            self.receive(&mut core);
        } else if writable {
            self.settle(&mut core);
        }
    }

    fn timer(&self) {
        let _announcer = self.queue.announcer();
        let mut core = lock(&self.core);
        if core.closed.is_none() {
            self.expire(&mut core);
        }
    }

    fn failed(&self, reason: String) {
        let _announcer = self.queue.announcer();
        let mut core = lock(&self.core);
        core.poisoned = true;
        self.end(&mut core, code(RTD_E_PANIC), &reason);
    }
}
