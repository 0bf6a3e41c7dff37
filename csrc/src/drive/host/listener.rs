//! Storey 3, host: the listening socket: accepting connections, and closing those that send no handshake.

use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use super::hub::Hub;
use super::turn::PeerHandler;
use crate::code::code;
use crate::code::rtd_code::RTD_E_PANIC;
use crate::code::rtd_event_kind::RTD_EV_ROOM_FAILED;
use crate::connection::{Event, Millis};
use crate::drive::reactor::Handler;
use crate::drive::{address, lock, DriveError};

/// When the system has no descriptor for a new connection, accepting pauses this long: the listening socket stays
/// readable, and trying at once would spin.
const ACCEPT_PAUSE: Millis = 100;

/// The listening socket of a host.
pub struct Listener {
    hub: Arc<Hub>,
    key: usize,
    socket: UnixListener,
    path: PathBuf,
    next_peer: AtomicU64,
}

impl Listener {
    /// Listens at `path` and accepts from now on.
    ///
    /// # Errors
    /// As [`address::listen`].
    pub fn open(path: &Path, hub: &Arc<Hub>) -> Result<Arc<Self>, DriveError> {
        let socket = address::listen(path)?;
        let listener = Arc::new_cyclic(|me: &Weak<Self>| Self {
            hub: Arc::clone(hub),
            key: hub.reactor.register(me.clone()),
            socket,
            path: path.into(),
            next_peer: AtomicU64::new(1),
        });
        hub.reactor.watch(listener.key, &listener.socket, false)?;
        Ok(listener)
    }

    /// Stops listening and removes the socket file.
    pub fn close(&self) {
        self.hub.reactor.forget(self.key, Some(&self.socket));
        let _already_removed = std::fs::remove_file(&self.path);
    }

    fn accept(&self) {
        loop {
            let stream = match self.socket.accept() {
                Ok((stream, _)) => stream,
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return,
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => continue,
                    _ => return self.pause(),
                },
            };
            // Another user learns nothing, not even the reason.
            if !address::is_same_user(&stream) || stream.set_nonblocking(true).is_err() {
                continue;
            }
            let id = self.next_peer.fetch_add(1, Ordering::Relaxed);
            let connection = PeerHandler::connect(&self.hub, id, stream);
            let peer = Arc::clone(&connection.peer);
            let options = &self.hub.options;
            if !lock(&self.hub.registry).add(connection, options.max_peers) {
                peer.hang_up();
                continue;
            }
            let now = self.hub.reactor.now();
            let deadline = options.handshake_timeout.map(|timeout| now.saturating_add(timeout));
            if let Err(error) = peer.start(deadline) {
                self.hub.drop_peer(id, &error.into());
            }
            self.limit_newcomers();
        }
    }

    fn pause(&self) {
        let reactor = &self.hub.reactor;
        if reactor.rewatch(self.key, &self.socket, false, false).is_ok() {
            reactor.set_timer(self.key, Some(reactor.now() + ACCEPT_PAUSE));
        }
    }

    fn limit_newcomers(&self) {
        let surplus = lock(&self.hub.registry).surplus_newcomer();
        if let Some(connection) = surplus {
            // Its handshake may be there and not be read yet.
            connection.handler.ready(true, false);
            if connection.peer.is_before_handshake() {
                self.hub.drop_peer(connection.peer.id, &DriveError::Timeout("no handshake".into()));
            }
        }
    }
}

impl Handler for Listener {
    fn ready(&self, readable: bool, _writable: bool) {
        if readable {
            self.accept();
        }
    }

    fn timer(&self) {
        // The pause is over.
        if self.hub.reactor.rewatch(self.key, &self.socket, true, false).is_ok() {
            self.accept();
        }
    }

    fn failed(&self, reason: String) {
        self.hub.emit(Event::ended(RTD_EV_ROOM_FAILED, 0, code(RTD_E_PANIC), &reason));
    }
}

#[cfg(test)]
mod tests {
    use super::super::options::HostOptions;
    use super::super::room::Room;
    use super::*;
    use crate::code::rtd_event_kind::RTD_EV_ROOM_WANTED;
    use crate::drive::queue::Waited;
    use crate::drive::reactor::ReactorUse;
    use crate::wire::frame;
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    #[test]
    fn a_peer_about_to_enter_a_room_that_is_closed_asks_for_it_again() {
        let path = std::env::temp_dir().join(format!("rtd-{}", uuid::Uuid::new_v4().simple()));
        let running = ReactorUse::acquire().unwrap();
        let hub = Arc::new(Hub::new(HostOptions::default(), running.reactor()).unwrap());
        let listener = Listener::open(&path, &hub).unwrap();
        let mut stream = UnixStream::connect(&path).unwrap();
        let hello = br#"{"channel":"notebook_sync","notebook_id":"n","protocol":"v2"}"#;
        stream.write_all(&frame::encode(hello).unwrap()).unwrap();
        let wanted = || {
            assert_eq!(hub.queue.wait(Some(Duration::from_secs(60))), Waited::Event);
            let event = hub.queue.pop().unwrap().unwrap();
            assert_eq!((event.kind, event.id.as_str()), (RTD_EV_ROOM_WANTED, "n"));
            let mut waiting = lock(&hub.registry).wanted.remove("n").unwrap();
            assert_eq!(waiting.len(), 1);
            waiting.remove(0)
        };
        let peer = wanted();
        let room = Arc::new(Room::open("n", None).unwrap());
        lock(&hub.registry).rooms.insert("n".into(), Arc::clone(&room));
        hub.evict_room(&room).unwrap();
        assert!(matches!(hub.evict_room(&room), Err(DriveError::NotFound(_))));
        hub.enter(&peer, &room);
        assert_eq!(wanted().id, peer.id);
        hub.close(|| listener.close());
    }
}
