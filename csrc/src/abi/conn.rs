//! Storey 4, connections without sockets: bytes in, events and bytes out. For programs with an I/O loop of their own,
//! for tests and fuzzers.

use std::collections::HashMap;
use std::ffi::c_char;
use std::sync::{Mutex, MutexGuard};

use serde_json::{Map, Value};

use super::buf::{rtd_buf, write_buf};
use super::doc::rtd_doc;
use super::event::{check_event, rtd_event, BorrowedEvent};
use super::guard::{bytes, guard, guard_value, handle, out_handle, take_handle, text, Failure};
use super::rtd_result;
use crate::code::rtd_channel::*;
use crate::code::rtd_code;
use crate::code::rtd_event_kind::*;
use crate::connection::{Client, Event, Server, ServerEvent};
use crate::notebook::Notebook;
use crate::replica::Doc;
use crate::wire::handshake::Channel;

enum Side {
    Client {
        client: Client,
        /// The caller's tokens, by the ids of requests without a response.
        tokens: HashMap<u64, u64>,
    },
    Server {
        server: Server,
        next_token: u64,
    },
}

/// One connection, client or server side, without I/O.
pub struct rtd_conn {
    side: Mutex<Side>,
    event: BorrowedEvent,
}

/// Makes the client side of a notebook connection. rtd_conn_output() returns its handshake at once.
///
/// \param notebook_id id of the room in UTF-8
/// \param len its length in bytes
/// \param out receives the handle, NULL on failure; release with rtd_conn_free()
/// \return RTD_OK; RTD_E_TOO_BIG; RTD_E_UTF8; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_conn_client(
    notebook_id: *const c_char,
    len: usize,
    out: *mut *mut rtd_conn,
) -> rtd_result {
    guard(|| {
        // SAFETY: the caller's promise.
        unsafe {
            out_handle(out, || {
                let client = Client::new(text(notebook_id, len, "notebook_id")?)?;
                let side = Side::Client { client, tokens: HashMap::new() };
                Ok(rtd_conn { side: Mutex::new(side), event: BorrowedEvent::default() })
            })
        }
    })
}

/// Makes the server side of a connection of any channel.
///
/// \param out receives the handle, NULL on failure; release with rtd_conn_free()
/// \return RTD_OK; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_conn_server(out: *mut *mut rtd_conn) -> rtd_result {
    guard(|| {
        let side = Side::Server { server: Server::new(), next_token: 1 };
        // SAFETY: the caller's promise.
        unsafe {
            out_handle(out, || Ok(rtd_conn { side: Mutex::new(side), event: BorrowedEvent::default() }))
        }
    })
}

/// Adds bytes that the peer sent, in portions of any size.
///
/// \param conn the connection
/// \param data the bytes; copied
/// \param len their number
/// \return RTD_OK; RTD_E_POISONED; RTD_E_NULL
/// \threads any; the order of the calls is the order of the bytes
#[no_mangle]
pub unsafe extern "C" fn rtd_conn_receive(conn: *const rtd_conn, data: *const u8, len: usize) -> rtd_result {
    guard(|| {
        // SAFETY: the caller's promise.
        let (conn, data) = unsafe { (handle(conn, "conn")?, bytes(data, len, "data")?) };
        match &mut *lock(conn)? {
            Side::Client { client, .. } => client.push(data),
            Side::Server { server, .. } => server.push(data),
        }
        Ok(())
    })
}

/// Reports the end of the stream, and returns whether it came between two frames. The connection is over.
///
/// \param conn the connection
/// \return RTD_OK; RTD_E_PROTOCOL inside a frame; RTD_E_TOO_BIG after a length over the limit; RTD_E_POISONED; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_conn_eof(conn: *const rtd_conn) -> rtd_result {
    guard(|| {
        // SAFETY: the caller's promise.
        match &mut *lock(unsafe { handle(conn, "conn")? })? {
            Side::Client { client, .. } => client.eof()?,
            Side::Server { server, .. } => server.eof()?,
        }
        Ok(())
    })
}

/// Takes the next event. Client side: RTD_EV_READY, RTD_EV_CHANGED, RTD_EV_RESPONSE, RTD_EV_BROADCAST.
/// Server side: RTD_EV_ROOM_WANTED (id: the room; then call rtd_conn_join()), RTD_EV_REQUEST,
/// RTD_EV_ROOM_CHANGED; the handshake of another channel is an RTD_EV_REQUEST with token 0 (payload: the
/// handshake), which is not answered; for the settings call rtd_conn_join() as for a room.
///
/// \param conn the connection
/// \param doc the document, a standalone one; on the server side NULL until the room is known
/// \param now_ms milliseconds of the caller's clock
/// \param event struct_size set by the caller; receives the event
/// \return RTD_OK; RTD_E_AGAIN when more bytes are needed; RTD_E_PROTOCOL or RTD_E_TOO_BIG when the peer broke the
///   protocol (again at every later call); RTD_E_ARG; RTD_E_POISONED; RTD_E_VERSION; RTD_E_NULL
/// \threads one consumer at a time
#[no_mangle]
pub unsafe extern "C" fn rtd_conn_next_event(
    conn: *const rtd_conn,
    doc: *const rtd_doc,
    now_ms: u64,
    event: *mut rtd_event,
) -> rtd_result {
    guard(|| {
        // SAFETY: the caller's promise.
        let conn = unsafe { handle(conn, "conn")? };
        // SAFETY: the caller's promise.
        let doc = unsafe {
            check_event(event)?;
            doc.as_ref()
        };
        let mut notebook = doc.map(rtd_doc::lock).transpose()?;
        let next = match &mut *lock(conn)? {
            Side::Client { client, tokens } => {
                let mut next = client.next(notebook.as_deref_mut().ok_or_else(no_doc)?, now_ms)?;
                if let Some(event) = next.as_mut().filter(|event| event.kind == RTD_EV_RESPONSE) {
                    event.token = tokens.remove(&event.token).unwrap_or_default();
                }
                next
            }
            Side::Server { server, next_token } => server_event(server, next_token, notebook.as_deref_mut())?,
        };
        // SAFETY: the caller's promise.
        unsafe { conn.event.write(next.map(Event::rendered), event) }
    })
}

fn no_doc() -> Failure {
    Failure::new(rtd_code::RTD_E_NULL, "doc is NULL")
}

fn server_event(
    server: &mut Server,
    next_token: &mut u64,
    notebook: Option<&mut Notebook>,
) -> Result<Option<Event>, Failure> {
    let Some(next) = server.next(notebook)? else {
        return Ok(None);
    };
    Ok(Some(match next {
        ServerEvent::Handshake(handshake) => {
            let payload = handshake.to_json();
            let channel = match handshake.channel {
                Channel::Notebook { notebook_id, .. } => {
                    let event = Event::received(RTD_EV_ROOM_WANTED, 0, payload);
                    return Ok(Some(Event { id: notebook_id, ..event }));
                }
                Channel::Pool => RTD_CHANNEL_POOL,
                Channel::Blob => RTD_CHANNEL_BLOB,
                Channel::PoolState => RTD_CHANNEL_POOL_STATE,
                Channel::SettingsSync => RTD_CHANNEL_SETTINGS,
            };
            Event::request(channel, 0, String::new(), payload)
        }
        ServerEvent::Synced(changes) => Event::changed(RTD_EV_ROOM_CHANGED, &changes),
        ServerEvent::Request(request) => {
            let token = *next_token;
            *next_token += 1;
            server.expect(token, request)
        }
    }))
}

/// Client side: sends a request (protocol 2, section 5.6).
///
/// \param conn the connection
/// \param token chosen by the caller
/// \param json the request, a JSON object
/// \param len its length in bytes
/// \return RTD_OK; RTD_E_ARG; RTD_E_STATE on the server side; RTD_E_PROTOCOL when the daemon speaks protocol 1;
///   RTD_E_TOO_BIG; RTD_E_POISONED; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_conn_request(
    conn: *const rtd_conn,
    token: u64,
    json: *const u8,
    len: usize,
) -> rtd_result {
    guard(|| {
        // SAFETY: the caller's promise.
        let (conn, json) = unsafe { (handle(conn, "conn")?, bytes(json, len, "json")?) };
        let body = object(json)?;
        match &mut *lock(conn)? {
            Side::Client { client, tokens } => {
                tokens.insert(client.request(body)?, token);
                Ok(())
            }
            Side::Server { .. } => Err(wrong_side()),
        }
    })
}

/// Server side: the room is known; capabilities and the first sync message are queued.
///
/// \param conn the connection
/// \param capabilities JSON object whose members join the capabilities frame; (NULL, 0) for none
/// \param len its length in bytes
/// \return RTD_OK; RTD_E_STATE on the client side or before RTD_EV_ROOM_WANTED; RTD_E_ARG; RTD_E_POISONED; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_conn_join(
    conn: *const rtd_conn,
    capabilities: *const u8,
    len: usize,
) -> rtd_result {
    guard(|| {
        // SAFETY: the caller's promise.
        let (conn, json) = unsafe { (handle(conn, "conn")?, bytes(capabilities, len, "capabilities")?) };
        let members = if json.is_empty() { Map::new() } else { object(json)? };
        match &mut *lock(conn)? {
            Side::Server { server, .. } if server.is_waiting() => Ok(server.join(&members)?),
            _ => Err(wrong_side()),
        }
    })
}

/// Server side: answers a request event.
///
/// \param conn the connection
/// \param token token of the event
/// \param json the response, a JSON object
/// \param len its length in bytes
/// \return RTD_OK; RTD_E_NOT_FOUND; RTD_E_ARG; RTD_E_STATE on the client side; RTD_E_POISONED; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_conn_respond(
    conn: *const rtd_conn,
    token: u64,
    json: *const u8,
    len: usize,
) -> rtd_result {
    guard(|| {
        // SAFETY: the caller's promise.
        let (conn, json) = unsafe { (handle(conn, "conn")?, bytes(json, len, "json")?) };
        let body = Value::Object(object(json)?);
        match &mut *lock(conn)? {
            Side::Server { server, .. } => {
                let missing = || Failure::new(rtd_code::RTD_E_NOT_FOUND, "no such request");
                server.outbox.respond(token, &body).then_some(()).ok_or_else(missing)
            }
            Side::Client { .. } => Err(wrong_side()),
        }
    })
}

/// Server side: queues a broadcast after the changes made so far.
///
/// \param conn the connection
/// \param json the broadcast, a JSON object
/// \param len its length in bytes
/// \return RTD_OK; RTD_E_ARG; RTD_E_STATE on the client side; RTD_E_POISONED; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_conn_broadcast(
    conn: *const rtd_conn,
    json: *const u8,
    len: usize,
) -> rtd_result {
    guard(|| {
        // SAFETY: the caller's promise.
        let (conn, json) = unsafe { (handle(conn, "conn")?, bytes(json, len, "json")?) };
        let body = Value::Object(object(json)?).to_string().into_bytes().into();
        match &mut *lock(conn)? {
            Side::Server { server, .. } => {
                server.outbox.broadcast(&body, 0);
                Ok(())
            }
            Side::Client { .. } => Err(wrong_side()),
        }
    })
}

/// Takes the bytes to send now, changes of the document included. Call it after every step: bytes added and events
/// taken, a request, an answer, a change of the document. On the client side, acknowledgements wait for 20
/// milliseconds without new bytes: call it once more 20 milliseconds after the last bytes.
///
/// \param conn the connection
/// \param doc the document, a standalone one; on the server side NULL until the room is known
/// \param moved 1 when the document was changed here since the last call, else 0
/// \param now_ms milliseconds of the caller's clock
/// \param out receives the bytes, empty when there is nothing to send; release with rtd_buf_free()
/// \return RTD_OK; RTD_E_TOO_BIG when a message does not fit a frame; RTD_E_ARG; RTD_E_POISONED; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_conn_output(
    conn: *const rtd_conn,
    doc: *const rtd_doc,
    moved: i32,
    now_ms: u64,
    out: *mut rtd_buf,
) -> rtd_result {
    guard(|| {
        // SAFETY: the caller's promise.
        let (conn, doc) = unsafe { (handle(conn, "conn")?, doc.as_ref()) };
        let notebook = doc.map(rtd_doc::lock).transpose()?;
        let mut output = Vec::new();
        match &mut *lock(conn)? {
            Side::Client { client, .. } => {
                let notebook = notebook.as_deref().ok_or_else(no_doc)?;
                if moved != 0 && client.is_ready() {
                    client.push_changes(notebook)?;
                }
                client.tick(notebook, now_ms)?;
                client.take_output(&mut output);
            }
            Side::Server { server, .. } => {
                if moved != 0 {
                    server.outbox.document_moved();
                }
                loop {
                    server.fill(notebook.as_deref().map(|notebook| notebook as &dyn Doc))?;
                    if !server.outbox.has_output() {
                        break;
                    }
                    output.extend_from_slice(server.outbox.output());
                    server.outbox.written(server.outbox.output().len());
                }
            }
        }
        // SAFETY: the caller's promise.
        unsafe { write_buf(out, output) }
    })
}

/// Releases a connection. NULL is fine.
///
/// \param conn the connection; not used afterwards
/// \threads exclusive
#[no_mangle]
pub unsafe extern "C" fn rtd_conn_free(conn: *mut rtd_conn) {
    // SAFETY: the caller's promise.
    guard_value((), || drop(unsafe { take_handle(conn) }));
}

fn wrong_side() -> Failure {
    Failure::new(rtd_code::RTD_E_STATE, "not for this side or state of the connection")
}

fn object(json: &[u8]) -> Result<Map<String, Value>, Failure> {
    serde_json::from_slice(json)
        .map_err(|error| Failure::new(rtd_code::RTD_E_ARG, format!("not a JSON object: {error}")))
}

fn lock(conn: &rtd_conn) -> Result<MutexGuard<'_, Side>, Failure> {
    conn.side.lock().map_err(|_| Failure::new(rtd_code::RTD_E_POISONED, "the connection failed before"))
}
