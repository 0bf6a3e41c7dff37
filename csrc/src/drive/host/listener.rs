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
    use super::super::peer::Peer;
    use super::super::room::{Outcome, Room};
    use super::*;
    use crate::code::rtd_event_kind::RTD_EV_ROOM_WANTED;
    use crate::drive::queue::Waited;
    use crate::drive::reactor::ReactorUse;
    use crate::notebook::{Notebook, Op};
    use crate::replica::PeerSync;
    use crate::wire::frame::{self, Decoder, DATA_LIMIT};
    use serde_json::json;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    const PATIENCE: Duration = Duration::from_secs(60);

    /// A host without its public face.
    struct Bare {
        hub: Arc<Hub>,
        listener: Arc<Listener>,
        _reactor: ReactorUse,
    }

    impl Bare {
        fn open() -> Self {
            let path = std::env::temp_dir().join(format!("rtd-{}", uuid::Uuid::new_v4().simple()));
            let reactor = ReactorUse::acquire().unwrap();
            let hub = Arc::new(Hub::new(HostOptions::default(), reactor.reactor()).unwrap());
            let listener = Listener::open(&path, &hub).unwrap();
            Self { hub, listener, _reactor: reactor }
        }

        /// A connection that asks for a room in a protocol version.
        fn connect(&self, room: &str, version: &str) -> UnixStream {
            let mut stream = UnixStream::connect(&self.listener.path).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let hello =
                json!({"channel": "notebook_sync", "notebook_id": room, "protocol": version}).to_string();
            stream.write_all(&frame::encode(hello.as_bytes()).unwrap()).unwrap();
            stream
        }

        /// The only peer that waits for a room, after the event about it; it waits no longer.
        fn wanted(&self, room: &str) -> Arc<Peer> {
            assert_eq!(self.hub.queue.wait(Some(PATIENCE)), Waited::Event);
            let event = self.hub.queue.pop().unwrap().unwrap();
            assert_eq!((event.kind, event.id.as_str()), (RTD_EV_ROOM_WANTED, room));
            let mut waiting = lock(&self.hub.registry).wanted.remove(room).unwrap();
            assert_eq!(waiting.len(), 1);
            waiting.remove(0)
        }
    }

    impl Drop for Bare {
        fn drop(&mut self) {
            self.hub.close(|| self.listener.close());
            self.hub.workers.join();
        }
    }

    fn eventually(condition: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition() {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_peer_about_to_enter_a_room_that_is_closed_asks_for_it_again() {
        let host = Bare::open();
        let hub = &host.hub;
        let _stream = host.connect("n", "v2");
        let peer = host.wanted("n");
        let room = Arc::new(Room::open("n", None).unwrap());
        lock(&hub.registry).rooms.insert("n".into(), Arc::clone(&room));
        hub.evict_room(&room).unwrap();
        assert!(matches!(hub.evict_room(&room), Err(DriveError::NotFound(_))));
        hub.enter(&peer, &room);
        assert_eq!(host.wanted("n").id, peer.id);
    }

    #[test]
    fn a_room_is_wanted_once_and_nothing_is_kept_of_peers_that_have_gone() {
        let host = Bare::open();
        let hub = &host.hub;
        let streams = ["a", "b", "c"].map(|room| host.connect(room, "v2"));
        let peers: Vec<Arc<Peer>> = streams.iter().map(|_| any_wanted(&host)).collect();
        for peer in &peers[..2] {
            hub.find_room(peer, "n".into());
        }
        assert_eq!(hub.queue.pop().unwrap().unwrap().kind, RTD_EV_ROOM_WANTED);
        assert!(hub.queue.pop().unwrap().is_none(), "one event for both");
        hub.subscribe(&peers[2]).unwrap();
        for peer in &peers {
            hub.drop_peer(peer.id, &DriveError::Closed(String::new()));
            eventually(|| Arc::strong_count(peer) == 1);
        }
    }

    fn any_wanted(host: &Bare) -> Arc<Peer> {
        assert_eq!(host.hub.queue.wait(Some(PATIENCE)), Waited::Event);
        let event = host.hub.queue.pop().unwrap().unwrap();
        lock(&host.hub.registry).wanted.remove(&event.id).unwrap().remove(0)
    }

    #[test]
    fn a_queued_turn_of_a_peer_that_was_closed_changes_nothing() {
        let host = Bare::open();
        let hub = &host.hub;
        let mut stream = host.connect("n", "v1");
        let peer = host.wanted("n");
        let room = Arc::new(Room::open("n", None).unwrap());
        hub.enter(&peer, &room);
        let heads = || room.step(&mut Outcome::default(), |state, _| Ok(state.document.heads())).unwrap();
        // A client that has the document; what it writes next is an edit.
        let (mut sync, mut replica) = (PeerSync::new(), Notebook::empty());
        let mut decoder = Decoder::new(DATA_LIMIT);
        while replica.heads() != heads() {
            let Some(message) = decoder.next_frame().unwrap() else {
                let mut bytes = [0; 4096];
                let count = stream.read(&mut bytes).unwrap();
                decoder.push(&bytes[..count]);
                continue;
            };
            sync.receive(&mut replica, &message).unwrap();
            if let Some(answer) = sync.generate(&replica) {
                stream.write_all(&frame::encode(&answer).unwrap()).unwrap();
            }
        }
        let before = heads();
        let (go, gate) = std::sync::mpsc::channel::<()>();
        room.offload.enqueue(&hub.workers, Box::new(move || gate.recv().unwrap()));
        replica.edit(&[Op::insert_cell("c", "code", "x", None)]).unwrap();
        stream.write_all(&frame::encode(&sync.generate(&replica).unwrap()).unwrap()).unwrap();
        eventually(|| peer.is_paused());
        hub.drop_peer(peer.id, &DriveError::Closed(String::new()));
        go.send(()).unwrap();
        hub.workers.join();
        assert_eq!(heads(), before);
    }
}
