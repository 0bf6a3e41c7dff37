//! Storey 3: the session on the I/O thread: bytes in, bytes out, deadlines, the end.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::core::Core;
use super::pending::PendingKind;
use crate::code::code;
use crate::code::rtd_code::{RTD_E_CLOSED, RTD_E_IO, RTD_E_PANIC, RTD_E_PROTOCOL, RTD_E_TIMEOUT};
use crate::code::rtd_event_kind::*;
use crate::connection::{Event, Millis};
use crate::drive::queue::Queue;
use crate::drive::reactor::{Handler, Reactor};
use crate::drive::{lock, DriveError};
use crate::outputs::BlobStore;

/// Bytes read before other sockets get their turn.
const READ_BUDGET: usize = 1024 * 1024;

const LEFT: &str = "closed by this side";
/// A session that leaves gives up when the daemon has read nothing for so long.
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
    /// Delivers what happened, sends what can be sent, and sets the timer. Called after every step.
    pub(super) fn pump(&self, core: &mut Core) {
        if core.closed.is_some() {
            return;
        }
        self.deliver(core);
        if core.closed.is_some() {
            return;
        }
        if let Err(error) = self.flush(core) {
            // The daemon's last messages may still be readable; the end of the stream ends the session.
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

    fn flush(&self, core: &mut Core) -> io::Result<()> {
        let Core { link, replica, leaving, .. } = core;
        // A slow daemon is not a dead one: the limit counts from the last byte that the socket took.
        let taken = || *leaving = leaving.map(|_| self.reactor.now() + LEAVE_LIMIT);
        let written = link.write(replica, &self.stream, taken);
        let writable = matches!(written, Ok(true));
        if link.watching_writable != writable {
            self.reactor.rewatch(self.key, &self.stream, true, writable)?;
            link.watching_writable = writable;
        }
        written.map(|_more_waits| ())
    }

    pub(super) fn receive(&self, core: &mut Core) {
        // A deadline that has passed counts, whatever has arrived since.
        self.pass_deadlines(core, self.reactor.now());
        let mut buffer = vec![0_u8; 64 * 1024];
        let mut budget = READ_BUDGET;
        while budget > 0 && core.closed.is_none() {
            match (&self.stream).read(&mut buffer) {
                Ok(0) => {
                    let text = match core.link.client.eof() {
                        Ok(()) => "Disconnected".to_owned(),
                        Err(error) => format!("Disconnected: {error}"),
                    };
                    return self.end(core, code(RTD_E_CLOSED), &text);
                }
                Ok(count) => {
                    budget = budget.saturating_sub(count);
                    core.link.client.push(&buffer[..count]);
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
        self.pump(core);
    }

    pub(super) fn process(&self, core: &mut Core) {
        loop {
            let now = self.reactor.now();
            let event = match core.link.client.next(&mut core.replica, now) {
                Ok(Some(event)) => event,
                Ok(None) => return,
                Err(error) => {
                    let text = error.to_string();
                    return self.end(core, code(RTD_E_PROTOCOL), &text);
                }
            };
            let result = match event.kind {
                RTD_EV_READY => {
                    core.link.connect_deadline = None;
                    core.runs.set_rule(core.link.client.dialect().ends());
                    self.queue.push(event);
                    Ok(())
                }
                RTD_EV_CHANGED => {
                    self.changed(core, event);
                    Ok(())
                }
                RTD_EV_RESPONSE => self.responded(core, event),
                _ => self.broadcast(core, event, now),
            };
            if let Err(error) = result {
                return self.end(core, code(RTD_E_PROTOCOL), &error.to_string());
            }
        }
    }

    pub(super) fn expire(&self, core: &mut Core) {
        let now = self.reactor.now();
        let due = |deadline: Option<Millis>| deadline.is_some_and(|at| at <= now);
        if due(core.link.connect_deadline) {
            return self.end(core, code(RTD_E_TIMEOUT), "Connection timeout");
        }
        if due(core.leaving) {
            return if core.link.is_unsent() {
                self.end(
                    core,
                    code(RTD_E_TIMEOUT),
                    "the daemon did not take everything that was written here",
                )
            } else {
                self.end(core, 0, LEFT)
            };
        }
        self.pass_deadlines(core, now);
        let action = core.runs.tick(now);
        let ticked = core.link.client.tick(&core.replica, now).map_err(DriveError::from);
        if let Err(error) = self.act(core, action).and(ticked) {
            self.end(core, code(RTD_E_IO), &error.to_string());
        }
        self.pump(core);
    }

    /// Ends requests, syncs and executions whose deadline, set by the caller, has passed.
    fn pass_deadlines(&self, core: &mut Core, now: Millis) {
        for (kind, token) in core.pending.expire(now) {
            self.fail(kind, token, code(RTD_E_TIMEOUT), "Connection timeout");
        }
        core.runs.expire(now);
    }

    /// Leaves as soon as the daemon has what was written here. Everything under way gets its terminal event at once.
    pub(super) fn leave(&self, core: &mut Core) {
        if core.is_over() {
            return;
        }
        if core.poisoned || !core.owes() {
            return self.end(core, 0, LEFT);
        }
        core.leaving = Some(self.reactor.now() + LEAVE_LIMIT);
        self.end_waiting(core, 0, LEFT);
        self.pump(core);
    }

    /// Ends the session: everything under way gets its terminal event, then CLOSED follows.
    pub(super) fn end(&self, core: &mut Core, code: i32, text: &str) {
        if core.closed.is_some() {
            return;
        }
        core.closed = Some(text.into());
        self.reactor.forget(self.key, Some(&self.stream));
        let _peer_is_gone = self.stream.shutdown(std::net::Shutdown::Both);
        self.end_waiting(core, code, text);
        self.queue.push(Event::ended(RTD_EV_CLOSED, 0, code, text));
    }

    fn end_waiting(&self, core: &mut Core, code: i32, text: &str) {
        core.runs.disconnected(text);
        self.deliver_runs(core);
        let code = if code == 0 { RTD_E_CLOSED as i32 } else { code };
        for (kind, token) in core.pending.end_all() {
            self.fail(kind, token, code, text);
        }
    }

    /// Ends a request or a sync without a response.
    fn fail(&self, kind: PendingKind, token: u64, code: i32, text: &str) {
        match kind {
            PendingKind::Request => self.queue.push(Event::ended(RTD_EV_RESPONSE, token, code, text)),
            PendingKind::Sync => self.queue.push(Event::ended(RTD_EV_SYNCED, token, code, text)),
            PendingKind::Execute | PendingKind::Barrier | PendingKind::Clear => {}
        }
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
            self.pump(&mut core);
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
