/*
 * runtimed_ffi.h - live, shared notebooks behind a C ABI.
 *
 * Generated from csrc/src/abi by `make header`; change the Rust sources, not this file.
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * Two tiers. The pure one (rtd_frame_*, rtd_decoder_*, rtd_message_*, rtd_sync_*, rtd_output_*, rtd_blobs_*, and
 * rtd_doc_* of standalone documents) converts bytes to bytes: no thread, no file descriptor, no clock; only the blob
 * store uses the disk. rtd_conn_* is a whole connection made of these parts, for programs with an I/O loop of their
 * own. The driven tier (rtd_session_*, rtd_host_*) owns sockets and one I/O thread per process, and reports through
 * queues of events (rtd_queue_*). "Section 5.6" and the like are sections of protocol 2.
 *
 * A client: rtd_session_open; take events from rtd_session_queue until RTD_EV_READY; start a kernel with
 * rtd_session_request ({"action":"launch_kernel",...}); edit rtd_session_doc with rtd_doc_create_cell or rtd_doc_edit;
 * rtd_session_execute; take RTD_EV_OUTPUT until RTD_EV_DONE; rtd_session_free. A host: rtd_host_open; answer
 * RTD_EV_ROOM_WANTED with rtd_host_open_room and RTD_EV_REQUEST with rtd_host_respond; publish outputs with
 * rtd_host_publish. examples/c in the sources has a program for each.
 *
 * Results. Functions return RTD_OK (0) or a negative RTD_E_*. A call that fails keeps its text for rtd_last_error on
 * the same thread; a call that succeeds does not change it. On failure outputs are not written, except handles, which
 * become NULL. Besides the codes listed at a function, each may return RTD_E_PANIC, and those of a session or host, its
 * queue and its documents RTD_E_STATE in a forked child. The process is aborted when memory runs out.
 *
 * Arguments. Inputs come first, outputs last. A text is UTF-8 with its length in bytes and may contain zero bytes;
 * (NULL, 0) is empty, (NULL, n) is RTD_E_NULL. Numbers that name something are int32_t, so that an unknown number is
 * an error and not undefined behaviour.
 *
 * Ownership. The caller owns a handle that a function writes to `out` and releases it once with rtd_x_free; likewise
 * an rtd_buf with rtd_buf_free. NULL is fine for both. A function that fills an rtd_buf does not free what was in it.
 * The library reads or copies its arguments during the call. Everything else is borrowed, and the comment says until
 * when: above all rtd_session_queue, rtd_host_queue and rtd_session_doc return parts of their session or host, which
 * are released with it.
 *
 * Threads. Any function may be called from any thread, with two exceptions: only one thread at a time may take events
 * from a queue, and free must be the last call: no other call of the handle, its queue or its documents may be in
 * progress. (A room's document may be released later; until then its functions return RTD_E_CLOSED.) The library
 * installs no signal handler and writes to sockets without SIGPIPE. In a child made by fork(), sessions and hosts of
 * the parent return RTD_E_STATE, and freeing them there has no effect on the parent. The child may open its own.
 *
 * Structs that the program allocates start with struct_size; their rtd_x_options_init sets it and the defaults. New
 * members are added at the end only.
 */
#ifndef RUNTIMED_FFI_H
#define RUNTIMED_FFI_H

#include <stddef.h>
#include <stdint.h>

#define RTD_VERSION "0.1.0"

#ifdef __cplusplus
extern "C" {
#endif

/* rtd-cdef-begin */


/// Result of a call, and code of an event. Zero is success, errors are negative and never renumbered.
typedef enum rtd_code {
  /// Success.
  RTD_OK = 0,
  /// Nothing there now, or a limit is reached: try again after the next event.
  RTD_E_AGAIN = -1,
  /// The handle or the connection is closed.
  RTD_E_CLOSED = -2,
  /// A pointer that must not be NULL is NULL.
  RTD_E_NULL = -3,
  /// An argument is wrong; the caller can correct it.
  RTD_E_ARG = -4,
  /// A text is not UTF-8.
  RTD_E_UTF8 = -5,
  /// Larger than the protocol or a limit allows.
  RTD_E_TOO_BIG = -6,
  /// The peer broke the protocol.
  RTD_E_PROTOCOL = -7,
  /// The operating system refused; the text is that of the system.
  RTD_E_IO = -8,
  /// A time limit passed.
  RTD_E_TIMEOUT = -9,
  /// No such cell, room, request, peer or blob.
  RTD_E_NOT_FOUND = -10,
  /// Not possible in this state, or in a forked child.
  RTD_E_STATE = -11,
  /// Header and library do not match.
  RTD_E_VERSION = -12,
  /// The library failed; the handle is poisoned.
  RTD_E_PANIC = -13,
  /// The library failed in this handle before.
  RTD_E_POISONED = -14,
  /// Stored data cannot be read; it was not changed.
  RTD_E_CORRUPT = -15,
} rtd_code;

/// Kinds of events. 1 to 12 come from sessions, 20 and above from hosts, RTD_EV_CLOSED from both.
typedef enum rtd_event_kind {
  /// No event.
  RTD_EV_NONE = 0,
  /// The session has joined the room and has its document. payload: capabilities of the daemon.
  RTD_EV_READY = 1,
  /// Peers changed the document, which has the changes already. payload: {"cells":[ids],"order":bool,"metadata":bool}.
  /// While such an event waits, later changes are added to it.
  RTD_EV_CHANGED = 2,
  /// End of a request. code RTD_OK: payload is the response, which may be a refusal ({"result":"error",...});
  /// else there is no response, and text says why: RTD_E_TIMEOUT, RTD_E_CLOSED, or the code of RTD_EV_CLOSED.
  RTD_EV_RESPONSE = 3,
  /// The daemon accepted an execution. payload: its response.
  RTD_EV_QUEUED = 4,
  /// The kernel started the cell. number: execution count. The document may be ahead of the daemon's broadcasts:
  /// outputs can come before this event.
  RTD_EV_STARTED = 5,
  /// An output. number: index in the cell; code: `rtd_output_change`; payload: nbformat output; text: plain text.
  /// If its blob cannot be read, payload is the element of the document as a JSON string and text the reason.
  RTD_EV_OUTPUT = 6,
  /// The outputs of the cell were cleared. number: when the session joined an execution that was already running, the
  /// number of outputs that follow and were there before; else -1.
  RTD_EV_CLEARED = 7,
  /// End of an execution. code: `rtd_done`; number: execution count, -1 if it never started; text: reason.
  RTD_EV_DONE = 8,
  /// Any broadcast (section 5.8) except `output`. payload: as received.
  RTD_EV_BROADCAST = 9,
  /// End of rtd_session_sync(). code: RTD_OK, or as for RTD_EV_RESPONSE with text.
  RTD_EV_SYNCED = 10,
  /// The queue was full, and events that are not terminal were dropped: read the document.
  RTD_EV_RESYNC = 11,
  /// The last event. code: RTD_OK when this side closed, RTD_E_CLOSED when the daemon did, RTD_E_TIMEOUT when the daemon
  /// did not complete the handshake, stopped answering or stopped reading, RTD_E_PROTOCOL, RTD_E_IO, RTD_E_PANIC; text:
  /// why.
  RTD_EV_CLOSED = 12,
  /// A peer asks for a room that is not open: answer with rtd_host_open_room() or rtd_host_refuse_room().
  RTD_EV_ROOM_WANTED = 20,
  /// A peer joined a room. number: peers in the room now.
  RTD_EV_PEER_JOINED = 21,
  /// A peer left a room; its requests no longer need an answer. number: peers in the room now; code: RTD_OK for an
  /// ordinary end, RTD_E_TOO_BIG when it did not read, RTD_E_PROTOCOL, RTD_E_TIMEOUT, RTD_E_IO, RTD_E_PANIC; text: why.
  RTD_EV_PEER_LEFT = 22,
  /// A request. code: `rtd_channel`; payload: the request, or the bytes of a blob. Answer once with rtd_host_respond().
  /// The library adds the member `at_request` to execute_cell and run_all_cells: an array of the cells to run (id,
  /// cell_type, source), as they were when the request arrived.
  RTD_EV_REQUEST = 23,
  /// Peers changed a room's document; only with RTD_HOST_WATCH_CHANGES. payload and merging as for RTD_EV_CHANGED, per
  /// room.
  RTD_EV_ROOM_CHANGED = 24,
  /// code RTD_E_IO: the room's journal cannot be written at present (the room stays open, and each change tries again);
  /// any other code: the room failed and was closed.
  RTD_EV_ROOM_FAILED = 25,
  /// Peers changed the settings. Not sent again before the next rtd_host_settings().
  RTD_EV_SETTINGS_CHANGED = 26,
  /// As RTD_EV_ROOM_FAILED, for the settings.
  RTD_EV_SETTINGS_FAILED = 27,
} rtd_event_kind;

/// How an execution ended.
typedef enum rtd_done {
  /// The cell ran without an error.
  RTD_DONE_OK = 0,
  /// The code raised an error; it is the last error output.
  RTD_DONE_ERROR = 1,
  /// The kernel was interrupted.
  RTD_DONE_INTERRUPTED = 2,
  /// The cell never ran, or its kernel was shut down.
  RTD_DONE_CANCELLED = 3,
  /// The kernel died.
  RTD_DONE_KERNEL_DIED = 4,
  /// The kernel could not be started.
  RTD_DONE_LAUNCH_FAILED = 5,
  /// The caller's time limit passed; the cell keeps running.
  RTD_DONE_TIMED_OUT = 6,
  /// The connection ended.
  RTD_DONE_DISCONNECTED = 7,
  /// The daemon refused the request. text: its reason; payload: its response.
  RTD_DONE_REFUSED = 8,
} rtd_done;

/// What an output event did to the list of outputs.
typedef enum rtd_output_change {
  /// Inserted at the index, normally the end.
  RTD_OUTPUT_APPENDED = 0,
  /// Took the place of the one at the index.
  RTD_OUTPUT_REPLACED = 1,
  /// Stream text that came in pieces is one output now, at the index: it replaces the pieces, which are all outputs from
  /// there on. Payload and text have only what is new, so that no text is reported twice; they are often empty.
  RTD_OUTPUT_JOINED = 2,
  /// Replaces all outputs from the index on, with the whole output as payload. Reported instead of RTD_OUTPUT_JOINED
  /// when the library cannot compare the texts, because a blob is missing.
  RTD_OUTPUT_REPLACED_ALL = 3,
} rtd_output_change;

/// Where a request came from.
typedef enum rtd_channel {
  /// A peer of a room (protocol 2, section 5.6).
  RTD_CHANNEL_NOTEBOOK = 1,
  /// The pool channel (section 4).
  RTD_CHANNEL_POOL = 2,
  /// The blob channel (section 8.6): with an id, payload holds bytes to store and id their media type.
  RTD_CHANNEL_BLOB = 3,
  /// The pool state (section 11.2). Only from rtd_conn_next_event(): a host answers by itself, see
  /// rtd_host_announce_pool_state().
  RTD_CHANNEL_POOL_STATE = 4,
  /// The settings (section 11.1). Only from rtd_conn_next_event(): a host answers by itself, see
  /// rtd_host_open_settings().
  RTD_CHANNEL_SETTINGS = 5,
} rtd_channel;

/// Version of the C ABI that this header describes. A library with the same major and at least this minor number fits;
/// while the major number is 0, the minor number has to be the same.
typedef enum rtd_abi {
  /// Changes when something is removed or changes its meaning.
  RTD_ABI_MAJOR = 0,
  /// Changes when something is added; while the major number is 0, also when something is removed.
  RTD_ABI_MINOR = 3,
} rtd_abi;

/// Flags of a session.
typedef enum rtd_session_flag {
  /// Also report RTD_EV_OUTPUT and RTD_EV_CLEARED of cells that other peers run, with token 0.
  RTD_SESSION_WATCH_ALL = 1,
} rtd_session_flag;

/// Flags of a host.
typedef enum rtd_host_flag {
  /// RTD_EV_ROOM_CHANGED whenever a peer changes the document of a room.
  RTD_HOST_WATCH_CHANGES = 1,
} rtd_host_flag;

/// Kinds of frames of the notebook channel (protocol 2, section 5.1).
typedef enum rtd_frame {
  /// No type byte: handshakes, capabilities, the other channels.
  RTD_FRAME_UNTYPED = -1,
  /// Automerge sync message.
  RTD_FRAME_SYNC = 0,
  /// Request, JSON.
  RTD_FRAME_REQUEST = 1,
  /// Response, JSON.
  RTD_FRAME_RESPONSE = 2,
  /// Broadcast, JSON.
  RTD_FRAME_BROADCAST = 3,
} rtd_frame;

/// Limits of the length that a frame may announce, in bytes.
typedef enum rtd_frame_limit {
  /// First frame of every connection.
  RTD_LIMIT_CONTROL = 65536,
  /// Every other frame.
  RTD_LIMIT_DATA = 104857600,
} rtd_frame_limit;

/// Kinds of JSON messages.
typedef enum rtd_message {
  /// First frame of a connection (protocol 2, section 3).
  RTD_MESSAGE_HANDSHAKE = 0,
  /// Capabilities of the notebook channel (3.1).
  RTD_MESSAGE_CAPABILITIES = 1,
  /// Notebook request (5.6).
  RTD_MESSAGE_REQUEST = 2,
  /// Notebook response (5.7).
  RTD_MESSAGE_RESPONSE = 3,
  /// Notebook broadcast (5.8).
  RTD_MESSAGE_BROADCAST = 4,
  /// Pool request (4.1).
  RTD_MESSAGE_POOL_REQUEST = 5,
  /// Pool response (4.2).
  RTD_MESSAGE_POOL_RESPONSE = 6,
  /// Blob request (8.6).
  RTD_MESSAGE_BLOB_REQUEST = 7,
  /// Blob response (8.6).
  RTD_MESSAGE_BLOB_RESPONSE = 8,
  /// Pool state (11.2).
  RTD_MESSAGE_POOL_STATE = 9,
} rtd_message;

/// A directory of blobs named by the SHA-256 of their content (protocol 2, section 8.4).
typedef struct rtd_blobs rtd_blobs;

/// One connection, client or server side, without I/O.
typedef struct rtd_conn rtd_conn;

/// Splits a byte stream into frames, without I/O.
typedef struct rtd_decoder rtd_decoder;

/// A notebook: an Automerge document with the schema of protocol 2, section 7. There are three sorts, with the same
/// functions. A standalone document comes from rtd_doc_new(), _create(), _load() or _fork(); rtd_sync and rtd_conn
/// take this sort only. The document of a session (rtd_session_doc()) is its replica: a change is sent at once; its
/// functions return RTD_E_STATE before RTD_EV_READY, and those that change it RTD_E_CLOSED after the end of the
/// connection and RTD_E_AGAIN while the daemon leaves more than 256 MiB unread. The document of a room
/// (rtd_host_doc()) is the one that its peers share: a change is recorded and sent to them; its functions return
/// RTD_E_NOT_FOUND while the room is not open and RTD_E_CLOSED once the host is closed.
typedef struct rtd_doc rtd_doc;

/// Rooms on one socket. The library keeps the documents, synchronizes the peers and keeps everything in order; requests
/// of peers become events, and the program decides what they mean.
typedef struct rtd_host rtd_host;

/// The events of a session or a host. Borrowed from it: rtd_session_queue() and rtd_host_queue() always return the
/// same one; it is never freed by itself and ends with rtd_session_free() or rtd_host_free(). A call of the queue
/// counts as a call of its session or host. After close it still hands out the events that wait; RTD_EV_CLOSED is
/// the last, and from then on its functions return RTD_E_CLOSED.
typedef struct rtd_queue rtd_queue;

/// A client of one room: a replica of the document, requests, executions, and a queue of events.
typedef struct rtd_session rtd_session;

/// What one peer's copy of a document is known to hold. One per connection; empty at first. Its functions take a
/// standalone document only (RTD_E_ARG for others).
typedef struct rtd_sync rtd_sync;

/// `RTD_OK` (0) or a negative `RTD_E_*` of `rtd_code`.
typedef int32_t rtd_result;

/// Bytes owned by the library. Start from all zeros (`rtd_buf b = {0}`), release with rtd_buf_free().
typedef struct rtd_buf {
  /// The bytes; NULL when there are none. Not terminated.
  uint8_t *data;
  /// Number of bytes.
  size_t len;
  /// Private to the library.
  size_t cap;
} rtd_buf;

/// One event of a session, a host or a connection. Set `struct_size` to `sizeof(rtd_event)` before the call. The
/// pointers are borrowed: they are valid until the next event is taken from the same queue or connection, until that is
/// freed, and in an `rtd_event_fn` until it returns. The texts are not terminated. Members that the kind does not
/// mention are zero, empty, or -1 for `number`.
typedef struct rtd_event {
  /// sizeof(rtd_event), as the program was compiled.
  uint32_t struct_size;
  /// One of `rtd_event_kind`.
  int32_t kind;
  /// A result code; RTD_EV_DONE: `rtd_done`; RTD_EV_OUTPUT: `rtd_output_change`; RTD_EV_REQUEST: `rtd_channel`.
  int32_t code;
  /// Zero.
  int32_t reserved;
  /// Position in this queue: 1, 2, 3, ... without a gap; 0 from rtd_conn_next_event().
  uint64_t seq;
  /// Session: the token of the call that this event belongs to, 0 for none. Host: the token to answer.
  uint64_t token;
  /// Host: number of the connection.
  uint64_t peer;
  /// Execution count, index of an output, or number of peers; -1 when unknown.
  int64_t number;
  /// Cell id (session), notebook id (host), media type (a blob to store).
  const char *id;
  /// Length of `id` in bytes.
  size_t id_len;
  /// JSON, unless the kind says otherwise.
  const uint8_t *payload;
  /// Length of `payload` in bytes.
  size_t payload_len;
  /// Plain text of an output, or the reason of an end.
  const char *text;
  /// Length of `text` in bytes.
  size_t text_len;
} rtd_event;

/// Called by rtd_queue_dispatch(), on the thread that called it. May call any function of this library except
/// rtd_queue_next() and rtd_queue_dispatch() of the same queue and free of its session or host. Must return
/// normally: no exception, no longjmp.
typedef void (*rtd_event_fn)(void *userdata, const struct rtd_event *event);

/// Called from any thread when events wait, perhaps from several at the same time. Must return at once and call no
/// function of this library: it may run in the middle of one. The same holds for a finalizer.
typedef void (*rtd_wakeup_fn)(void *userdata);

/// Options of rtd_session_open(). Call rtd_session_options_init() first, then set what you need.
typedef struct rtd_session_options {
  /// sizeof(rtd_session_options), as the program was compiled.
  uint32_t struct_size;
  /// A sum of `rtd_session_flag`. Default 0.
  uint32_t flags;
  /// Milliseconds for handshake and first synchronisation; negative: no limit. Default 10000.
  int64_t connect_timeout_ms;
  /// Bytes of events kept until the program takes them, see RTD_EV_RESYNC. Default 67108864.
  uint64_t queue_limit;
  /// Directory of blobs in UTF-8; NULL: the one that the daemon names, else `blobs` beside the socket.
  const char *blobs_dir;
  /// Length of `blobs_dir` in bytes.
  size_t blobs_dir_len;
} rtd_session_options;

/// Options of rtd_host_open(). Call rtd_host_options_init() first, then set what you need.
typedef struct rtd_host_options {
  /// sizeof(rtd_host_options), as the program was compiled.
  uint32_t struct_size;
  /// Sum of rtd_host_flag. Default 0.
  uint32_t flags;
  /// Largest number of connections; the host closes further ones at once. Default 1024.
  uint32_t max_peers;
  /// Milliseconds until a new connection must have sent its handshake; negative: no limit. Default 10000.
  int64_t handshake_timeout_ms;
  /// Bytes of responses and broadcasts kept for a peer that does not read; with more, the host disconnects it. Also
  /// bytes of requests of one peer without an answer; with more, the host stops reading from it. Default 67108864.
  uint64_t peer_limit;
  /// JSON object whose members are added to the capabilities frame; NULL for none. The member `blobs` names the
  /// directory of the blobs of rtd_output_store() to sessions; needed unless it is `blobs` beside the socket.
  const uint8_t *capabilities;
  /// Length of `capabilities` in bytes.
  size_t capabilities_len;
} rtd_host_options;

/// The ABI version of the loaded library.
///
/// \return major number << 16 | minor number
/// \threads any
uint32_t rtd_abi_version(void);

/// The version of the library as text, such as "0.1.0".
///
/// \return static text, never NULL
/// \threads any
const char *rtd_version(void);

/// Whether the library has a feature: "protocol-2", "session", "host", "journal", "blobs", "conn".
///
/// \param feature name in UTF-8
/// \param len its length in bytes
/// \return 1 or 0; 0 for unknown names
/// \threads any
int32_t rtd_has(const char *feature, size_t len);

/// Copies the text of the last failure on this thread: UTF-8, with a final NUL if `cap` has room for it. Each call that
/// fails sets it, and no call that succeeds changes it: read it right after the failure, on the same thread.
///
/// \param buf where to write at most `cap` bytes; may be NULL when `cap` is 0
/// \param cap size of `buf` in bytes
/// \param len receives the length of the whole text in bytes, without NUL
/// \return RTD_OK; RTD_E_NULL when `len`, or `buf` with a positive `cap`, is NULL
/// \threads any
rtd_result rtd_last_error(char *buf,
                          size_t cap,
                          size_t *len);

/// The name of a result code, such as "RTD_E_IO"; "RTD_E_UNKNOWN" for any other number.
///
/// \param code any number
/// \return static text, never NULL
/// \threads any
const char *rtd_result_name(rtd_result code);

/// Releases the bytes of a buffer and sets it to zeros. NULL and an empty buffer are fine.
///
/// \param buf a buffer filled by this library
/// \threads any; the buffer must not be in use elsewhere
void rtd_buf_free(struct rtd_buf *buf);

/// A descriptor that is readable exactly while an event waits, or after the last one was taken. Poll it; never read
/// or close it. It lives as long as the queue.
///
/// \param queue the queue
/// \return the descriptor; -1 for NULL and in a forked child
/// \threads any
int32_t rtd_queue_fd(const struct rtd_queue *queue);

/// Takes the next event. Never waits for the other side; for a session, it reads a blob file when an output is stored
/// in one.
///
/// \param queue the queue
/// \param event struct_size set by the caller; receives the event, borrowed until the next rtd_queue_next() or
///   rtd_queue_dispatch() of this queue
/// \return RTD_OK; RTD_E_AGAIN when no event waits; RTD_E_CLOSED after RTD_EV_CLOSED was taken; RTD_E_STATE in a forked
///   child; RTD_E_VERSION; RTD_E_NULL
/// \threads one consumer at a time
rtd_result rtd_queue_next(const struct rtd_queue *queue,
                          struct rtd_event *event);

/// Blocks until an event waits. Does not take it.
///
/// \param queue the queue
/// \param timeout_ms milliseconds; negative: no limit
/// \return RTD_OK; RTD_E_TIMEOUT; RTD_E_AGAIN when rtd_queue_wake() ended the wait; RTD_E_CLOSED after RTD_EV_CLOSED was
///   taken; RTD_E_STATE in a forked child; RTD_E_NULL
/// \threads any
rtd_result rtd_queue_wait(const struct rtd_queue *queue,
                          int64_t timeout_ms);

/// Ends one rtd_queue_wait(), the current or the next one, and is never lost. Adds no event and leaves the descriptor
/// as it is: a program that polls needs another way to wake itself.
///
/// \param queue the queue
/// \return RTD_OK; RTD_E_STATE in a forked child; RTD_E_NULL
/// \threads any
rtd_result rtd_queue_wake(const struct rtd_queue *queue);

/// Passes the events that wait to a function, on the calling thread. Does not wait.
///
/// \param queue the queue
/// \param fn called with `userdata` and the event, which is borrowed until it returns
/// \param userdata passed through
/// \param max the largest number of events to pass
/// \param delivered receives the number of events that were passed, 0 when none waited
/// \return RTD_OK; RTD_E_CLOSED when RTD_EV_CLOSED was taken before; RTD_E_STATE in a forked child; RTD_E_NULL
/// \threads one consumer at a time
rtd_result rtd_queue_dispatch(const struct rtd_queue *queue,
                              rtd_event_fn fn,
                              void *userdata,
                              size_t max,
                              size_t *delivered);

/// Sets the function that is called when events wait; NULL clears it. Called at once when events wait already. One
/// call may stand for several events: take events until none waits.
///
/// \param queue the queue
/// \param fn the function, or NULL
/// \param userdata passed through
/// \param finalizer called once with `userdata`, on any thread, after the last call of `fn`: when `fn` is replaced or
///   cleared, or the session or host is freed; may be NULL. Not called when this function fails
/// \return RTD_OK; RTD_E_STATE in a forked child; RTD_E_NULL
/// \threads any
rtd_result rtd_queue_set_wakeup(const struct rtd_queue *queue,
                                rtd_wakeup_fn fn,
                                void *userdata,
                                rtd_wakeup_fn finalizer);

/// Sets options to their defaults.
///
/// \param options the options; NULL is ignored
/// \param size sizeof(rtd_session_options); with any other size nothing is set
/// \threads any
void rtd_session_options_init(struct rtd_session_options *options, size_t size);

/// Connects to a daemon and starts to join a room; the daemon creates the room if it is new. RTD_EV_READY follows, or
/// RTD_EV_CLOSED. Before RTD_EV_READY, requests and the functions of the document return RTD_E_STATE.
///
/// \param socket_path path of the daemon's socket in UTF-8
/// \param path_len its length in bytes
/// \param notebook_id id of the room in UTF-8; any text
/// \param id_len its length in bytes
/// \param options NULL for the defaults
/// \param out receives the handle, NULL on failure; release with rtd_session_free()
/// \return RTD_OK; RTD_E_IO with the system's text when no daemon listens; RTD_E_TIMEOUT when the daemon does not accept
///   the connection in time (the call blocks for as long); RTD_E_AGAIN when a signal handler ran meanwhile: call again, or
///   give up; RTD_E_TOO_BIG for an id that does not fit the handshake; RTD_E_ARG for unknown flags; RTD_E_VERSION;
///   RTD_E_UTF8; RTD_E_NULL
/// \threads any
rtd_result rtd_session_open(const char *socket_path,
                            size_t path_len,
                            const char *notebook_id,
                            size_t id_len,
                            const struct rtd_session_options *options,
                            struct rtd_session **out);

/// Leaves the room. Each pending request and execution gets its terminal event at once; RTD_EV_CLOSED is the last event:
/// it follows when the daemon has read what this session wrote or, with RTD_E_TIMEOUT, has read nothing for 10 seconds.
/// Does not wait for it. The handle stays valid. Idempotent.
///
/// \param session the session
/// \return RTD_OK; RTD_E_STATE in a forked child; RTD_E_NULL
/// \threads any
rtd_result rtd_session_close(const struct rtd_session *session);

/// Closes and releases a session, with its queue and its document. Events that were not taken and bytes that were not
/// sent are dropped: where they matter, close first and take events until RTD_EV_CLOSED. NULL is fine. Waits for the
/// I/O thread to end if this was the last session or host, so do not call it from a wakeup function. Does nothing in a
/// forked child.
///
/// \param session the session; not used afterwards
/// \threads exclusive
void rtd_session_free(struct rtd_session *session);

/// The queue of a session's events.
///
/// \param session the session
/// \return the queue, borrowed: always the same, valid until rtd_session_free(); NULL for NULL
/// \threads any
struct rtd_queue *rtd_session_queue(const struct rtd_session *session);

/// The session's replica of the document. Reading it needs no I/O and works after the end of the connection too; a
/// change is sent at once.
///
/// \param session the session
/// \return the document, borrowed: always the same, valid until rtd_session_free(); NULL for NULL
/// \threads any
struct rtd_doc *rtd_session_doc(const struct rtd_session *session);

/// Turns events about outputs of cells that other peers run on or off. They carry token 0.
///
/// \param session the session
/// \param on 0 or 1
/// \return RTD_OK; RTD_E_STATE in a forked child; RTD_E_POISONED; RTD_E_NULL
/// \threads any
rtd_result rtd_session_watch(const struct rtd_session *session, int32_t on);

/// Sends a request (section 5.6), after all local edits. It ends in exactly one RTD_EV_RESPONSE with this token. The
/// daemon handles the requests of one session in order.
///
/// \param session the session
/// \param token chosen by the caller: not 0, preferably below 2^53, and not the token of another pending call
/// \param json the request, an object with the member `action`, in UTF-8
/// \param len its length in bytes
/// \param timeout_ms milliseconds until RTD_E_TIMEOUT; negative: no limit
/// \return RTD_OK; RTD_E_ARG when it is not a request; RTD_E_AGAIN with 1024 calls pending, or while the daemon leaves
///   more than 256 MiB unread; RTD_E_STATE before RTD_EV_READY or in a forked child; RTD_E_PROTOCOL when the daemon
///   speaks protocol 1 only; RTD_E_TOO_BIG; RTD_E_CLOSED; RTD_E_POISONED; RTD_E_NULL
/// \threads any
rtd_result rtd_session_request(const struct rtd_session *session,
                               uint64_t token,
                               const uint8_t *json,
                               size_t len,
                               int64_t timeout_ms);

/// Executes a code cell of the shared document as it is now, local edits included. Events with this token follow:
/// RTD_EV_QUEUED, RTD_EV_STARTED, RTD_EV_OUTPUT and RTD_EV_CLEARED as they happen, and exactly one RTD_EV_DONE at the
/// end. A cell that does not exist or cannot run ends in RTD_DONE_REFUSED.
///
/// \param session the session
/// \param token as for rtd_session_request()
/// \param cell_id id of the cell in UTF-8
/// \param len its length in bytes
/// \param timeout_ms milliseconds until RTD_DONE_TIMED_OUT; negative: no limit
/// \return as rtd_session_request(); RTD_E_UTF8
/// \threads any
rtd_result rtd_session_execute(const struct rtd_session *session,
                               uint64_t token,
                               const char *cell_id,
                               size_t len,
                               int64_t timeout_ms);

/// Asks for one RTD_EV_SYNCED with this token. It comes when the daemon has every local change and the replica has every
/// change that the daemon announced.
///
/// \param session the session
/// \param token as for rtd_session_request()
/// \param timeout_ms milliseconds until RTD_E_TIMEOUT; negative: no limit
/// \return as rtd_session_request()
/// \threads any
rtd_result rtd_session_sync(const struct rtd_session *session,
                            uint64_t token,
                            int64_t timeout_ms);

/// The state of the connection, as a JSON object with the members notebook_id, state ("connecting", "ready",
/// "closed"), reason (text once closed, else null), protocol ("v1" or "v2"), stream_pieces (whether stream text
/// comes in pieces that are merged later), capabilities (object), kernel_status (text, null before its first
/// broadcast), executing (cell id or null), queued (array of cell ids), queue_bytes (bytes of events that wait), unsent (whether the daemon may lack something that this session wrote), blobs_dir.
/// No I/O.
///
/// \param session the session
/// \param out receives the JSON; release with rtd_buf_free()
/// \return RTD_OK; RTD_E_STATE in a forked child; RTD_E_NULL
/// \threads any
rtd_result rtd_session_info(const struct rtd_session *session,
                            struct rtd_buf *out);

/// Sets options to their defaults.
///
/// \param options the options; NULL is ignored
/// \param size sizeof(rtd_host_options); with any other size nothing is set
/// \threads any
void rtd_host_options_init(struct rtd_host_options *options, size_t size);

/// Listens on a socket (mode 0600). Replaces the socket file of a process that is gone, but neither that of a live one
/// nor a file that is not a socket.
///
/// \param socket_path path of the socket in UTF-8
/// \param len its length in bytes, at most 107 on Linux
/// \param options NULL for the defaults
/// \param out receives the handle, NULL on failure; release with rtd_host_free()
/// \return RTD_OK; RTD_E_IO with the system's text, also when another daemon listens there; RTD_E_ARG, also for
///   unknown flags; RTD_E_VERSION; RTD_E_UTF8; RTD_E_NULL
/// \threads any
rtd_result rtd_host_open(const char *socket_path,
                         size_t len,
                         const struct rtd_host_options *options,
                         struct rtd_host **out);

/// Stops listening, disconnects every peer and removes the socket file. RTD_EV_CLOSED is the last event. The handle
/// stays valid. Idempotent.
///
/// \param host the host
/// \return RTD_OK; RTD_E_STATE in a forked child; RTD_E_NULL
/// \threads any
rtd_result rtd_host_close(const struct rtd_host *host);

/// Closes and releases a host with its queue; events that were not taken are dropped. NULL is fine. Waits for the I/O
/// thread to end if this was the last session or host, so do not call it from a wakeup function. Does nothing in a
/// forked child.
///
/// \param host the host; not used afterwards
/// \threads exclusive
void rtd_host_free(struct rtd_host *host);

/// The queue of a host's events.
///
/// \param host the host
/// \return the queue, borrowed: always the same, valid until rtd_host_free(); NULL for NULL
/// \threads any
struct rtd_queue *rtd_host_queue(const struct rtd_host *host);

/// Changes a room's document and sends it to its peers: the operations as one change (all or nothing; outputs as
/// rtd_output_store() returns them, or nbformat JSON), in one sync message per peer, then the broadcasts. A broadcast
/// never overtakes the change before it. A slow peer delays no other peer.
///
/// \param host the host
/// \param notebook_id id of the room in UTF-8
/// \param id_len its length in bytes
/// \param ops JSON array as in rtd_doc_edit(); (NULL, 0) for none
/// \param ops_len its length in bytes
/// \param broadcasts JSON array of broadcasts (section 5.8); (NULL, 0) for none
/// \param broadcasts_len its length in bytes
/// \param cause token of a request whose peer must get its response before these broadcasts; 0 for none
/// \return RTD_OK; RTD_E_NOT_FOUND for the room or a cell; RTD_E_ARG; RTD_E_CLOSED; RTD_E_POISONED; RTD_E_UTF8;
///   RTD_E_NULL
/// \threads any
rtd_result rtd_host_publish(const struct rtd_host *host,
                            const char *notebook_id,
                            size_t id_len,
                            const uint8_t *ops,
                            size_t ops_len,
                            const uint8_t *broadcasts,
                            size_t broadcasts_len,
                            uint64_t cause);

/// Sends one broadcast to one peer, after the changes and broadcasts before it: what only a new peer needs, such as the
/// current state of widgets (comm_sync). A peer that speaks protocol version 1 has no broadcasts and gets nothing.
///
/// \param host the host
/// \param peer number of the connection, as in RTD_EV_PEER_JOINED
/// \param broadcast the broadcast (section 5.8), a JSON object
/// \param len its length in bytes
/// \return RTD_OK; RTD_E_NOT_FOUND when no such peer is in a room; RTD_E_ARG; RTD_E_CLOSED; RTD_E_POISONED; RTD_E_NULL
/// \threads any
rtd_result rtd_host_send(const struct rtd_host *host,
                         uint64_t peer,
                         const uint8_t *broadcast,
                         size_t len);

/// Sends the state of the environment pools to its subscribers (section 11.2) if it differs from the last one. The host
/// keeps it for new subscribers; before the first call they get a state without errors. A subscriber that does not read
/// gets the newest state when it does, and nothing in between.
///
/// \param host the host
/// \param state JSON object with the members uv_error and conda_error, each null or a pool error (section 4.2)
/// \param len its length in bytes
/// \return RTD_OK; RTD_E_ARG; RTD_E_CLOSED; RTD_E_NULL
/// \threads any
rtd_result rtd_host_announce_pool_state(const struct rtd_host *host,
                                        const uint8_t *state,
                                        size_t len);

/// Answers a request event, now or later, in any order; the library adds the identifiers and sends the responses in the
/// order of the requests. While a peer has 1024 requests without an answer, or more than `peer_limit` bytes of them, the
/// host reads nothing more from it; if it leaves meanwhile, RTD_EV_PEER_LEFT follows their answers.
///
/// \param host the host
/// \param token token of the event
/// \param json the response, a JSON object
/// \param len its length in bytes
/// \return RTD_OK; RTD_E_NOT_FOUND when it was answered or its peer has left; RTD_E_ARG; RTD_E_CLOSED; RTD_E_NULL
/// \threads any
rtd_result rtd_host_respond(const struct rtd_host *host,
                            uint64_t token,
                            const uint8_t *json,
                            size_t len);

/// Disconnects one peer.
///
/// \param host the host
/// \param peer number of the connection
/// \return RTD_OK; RTD_E_NOT_FOUND; RTD_E_CLOSED; RTD_E_NULL
/// \threads any
rtd_result rtd_host_disconnect(const struct rtd_host *host, uint64_t peer);

/// Opens a room and admits the peers that wait for it. The room may be opened before a peer asks for it. With a journal,
/// the document is loaded from it, and every change is appended to it before it is acknowledged.
///
/// \param host the host
/// \param notebook_id id of the room in UTF-8
/// \param id_len its length in bytes
/// \param journal_path file of the document in UTF-8; NULL: in memory only
/// \param path_len its length in bytes
/// \return RTD_OK; RTD_E_STATE when the room is open or in a forked child; RTD_E_CORRUPT when the file cannot be read (it
///   stays as it is); RTD_E_IO; RTD_E_CLOSED; RTD_E_UTF8; RTD_E_NULL. After a failure the peers still wait
/// \threads any
rtd_result rtd_host_open_room(const struct rtd_host *host,
                              const char *notebook_id,
                              size_t id_len,
                              const char *journal_path,
                              size_t path_len);

/// Opens a room as rtd_host_open_room() does, but makes its peers wait for rtd_host_admit(). The first peer sees the
/// document with everything that was published meanwhile, such as the content of a notebook file: a client may fill a
/// room that it finds empty. rtd_host_close_room() abandons the room.
///
/// \param host the host
/// \param notebook_id id of the room in UTF-8
/// \param id_len its length in bytes
/// \param journal_path file of the document in UTF-8; NULL: in memory only
/// \param path_len its length in bytes
/// \return as rtd_host_open_room()
/// \threads any
rtd_result rtd_host_prepare_room(const struct rtd_host *host,
                                 const char *notebook_id,
                                 size_t id_len,
                                 const char *journal_path,
                                 size_t path_len);

/// Admits the peers of a prepared room.
///
/// \param host the host
/// \param notebook_id id of the room in UTF-8
/// \param len its length in bytes
/// \return RTD_OK; RTD_E_NOT_FOUND when no such room is prepared; RTD_E_STATE in a forked child; RTD_E_CLOSED;
///   RTD_E_UTF8; RTD_E_NULL
/// \threads any
rtd_result rtd_host_admit(const struct rtd_host *host,
                          const char *notebook_id,
                          size_t len);

/// Disconnects the peers that wait for a room, instead of opening it.
///
/// \param host the host
/// \param notebook_id id of the room in UTF-8
/// \param len its length in bytes
/// \return RTD_OK; RTD_E_NOT_FOUND when no peer waits for it; RTD_E_CLOSED; RTD_E_UTF8; RTD_E_NULL
/// \threads any
rtd_result rtd_host_refuse_room(const struct rtd_host *host, const char *notebook_id, size_t len);

/// Closes a room and disconnects its peers. Its journal keeps the document.
///
/// \param host the host
/// \param notebook_id id of the room in UTF-8
/// \param len its length in bytes
/// \return RTD_OK; RTD_E_NOT_FOUND; RTD_E_CLOSED; RTD_E_UTF8; RTD_E_NULL
/// \threads any
rtd_result rtd_host_close_room(const struct rtd_host *host, const char *notebook_id, size_t len);

/// Closes a room if no peer is in it. A peer that joins at this moment is not disconnected: it asks for the room again
/// (RTD_EV_ROOM_WANTED).
///
/// \param host the host
/// \param notebook_id id of the room in UTF-8
/// \param len its length in bytes
/// \return RTD_OK; RTD_E_AGAIN when a peer is in it; RTD_E_NOT_FOUND; RTD_E_CLOSED; RTD_E_UTF8; RTD_E_NULL
/// \threads any
rtd_result rtd_host_evict_room(const struct rtd_host *host,
                               const char *notebook_id,
                               size_t len);

/// The open rooms, as a JSON array of objects with the members notebook_id and peers.
///
/// \param host the host
/// \param out receives the JSON; release with rtd_buf_free()
/// \return RTD_OK; RTD_E_STATE in a forked child; RTD_E_NULL
/// \threads any
rtd_result rtd_host_rooms(const struct rtd_host *host, struct rtd_buf *out);

/// Makes a handle for the document of a room: to read it, to change it, to copy it, and to merge a copy into it. The
/// handle refers to the room by its id, so it also serves a room that is closed and opened again.
///
/// \param host the host
/// \param notebook_id id of the room in UTF-8; the room need not be open yet
/// \param len its length in bytes
/// \param out receives the handle, NULL on failure; release with rtd_doc_free(), before or after the host
/// \return RTD_OK; RTD_E_UTF8; RTD_E_NULL
/// \threads any
rtd_result rtd_host_doc(const struct rtd_host *host,
                        const char *notebook_id,
                        size_t len,
                        struct rtd_doc **out);

/// Opens the settings (protocol 2, section 11.1) for the peers of the settings channel; before this, the host closes
/// their connections. With a journal, the document is loaded from it, and every change is appended to it before it is
/// acknowledged; a new document has the defaults. Members that older programs wrote are moved to where they are now.
///
/// \param host the host
/// \param journal_path file of the document in UTF-8; NULL: in memory only
/// \param len its length in bytes
/// \return RTD_OK; RTD_E_STATE when they are open or in a forked child; RTD_E_CORRUPT when the file cannot be read (it
///   stays as it is); RTD_E_IO; RTD_E_CLOSED; RTD_E_UTF8; RTD_E_NULL
/// \threads any
rtd_result rtd_host_open_settings(const struct rtd_host *host,
                                  const char *journal_path,
                                  size_t len);

/// The settings, as a JSON object: theme, default_runtime, default_python_env, uv.default_packages,
/// conda.default_packages (the default where no usable value is set), then members that peers added.
///
/// \param host the host
/// \param out receives the JSON; release with rtd_buf_free()
/// \return RTD_OK; RTD_E_STATE when they are not open or in a forked child; RTD_E_CLOSED; RTD_E_POISONED; RTD_E_NULL
/// \threads any
rtd_result rtd_host_settings(const struct rtd_host *host,
                             struct rtd_buf *out);

/// Changes the settings and sends the change to the peers. Members that are missing or equal stay as they are; objects
/// are compared member by member, a list is replaced as a whole. The member `$schema` is ignored.
///
/// \param host the host
/// \param members JSON object as rtd_host_settings() gives it, or part of it
/// \param len its length in bytes
/// \return RTD_OK; RTD_E_ARG when a member has the wrong type (nothing changes then); RTD_E_STATE when
///   they are not open or in a forked child; RTD_E_CLOSED; RTD_E_POISONED; RTD_E_NULL
/// \threads any
rtd_result rtd_host_change_settings(const struct rtd_host *host,
                                    const uint8_t *members,
                                    size_t len);

/// Makes one frame: length, type byte if any, payload. Write it in one piece.
///
/// \param type one of `rtd_frame`
/// \param payload the payload without the type byte; (NULL, 0) is empty
/// \param len its length in bytes
/// \param out receives the frame; release with rtd_buf_free()
/// \return RTD_OK; RTD_E_ARG for an unknown type; RTD_E_TOO_BIG over 104857600 bytes with the type byte; RTD_E_NULL
/// \threads any
rtd_result rtd_frame_encode(int32_t type,
                            const uint8_t *payload,
                            size_t len,
                            struct rtd_buf *out);

/// Makes a decoder.
///
/// \param limit largest length a frame may announce, in bytes (`rtd_frame_limit`)
/// \param out receives the handle, NULL on failure; release with rtd_decoder_free()
/// \return RTD_OK; RTD_E_NULL
/// \threads any
rtd_result rtd_decoder_new(size_t limit, struct rtd_decoder **out);

/// Adds bytes of the stream, in portions of any size.
///
/// \param decoder the decoder
/// \param data the bytes; copied
/// \param len their number
/// \return RTD_OK; RTD_E_NULL
/// \threads any, one call at a time counts: bytes must come in order
rtd_result rtd_decoder_push(const struct rtd_decoder *decoder, const uint8_t *data, size_t len);

/// Takes the next whole frame: its payload, with the type byte in front on a notebook channel.
///
/// \param decoder the decoder
/// \param out receives the payload; release with rtd_buf_free()
/// \return RTD_OK; RTD_E_AGAIN when more bytes are needed; RTD_E_TOO_BIG when the peer announced more than the limit
///   (again at every later call); RTD_E_NULL
/// \threads any
rtd_result rtd_decoder_next(const struct rtd_decoder *decoder,
                            struct rtd_buf *out);

/// Reports the end of the stream, and returns whether it came between two frames.
///
/// \param decoder the decoder
/// \return RTD_OK; RTD_E_PROTOCOL inside a frame; RTD_E_TOO_BIG after a length over the limit; RTD_E_NULL
/// \threads any
rtd_result rtd_decoder_finish(const struct rtd_decoder *decoder);

/// Releases a decoder. NULL is fine.
///
/// \param decoder the decoder; not used afterwards
/// \threads exclusive
void rtd_decoder_free(struct rtd_decoder *decoder);

/// Checks a JSON message and writes it as nteract's `runtimed` would: compact, with the members in its order and
/// unknown members after them.
///
/// \param kind one of `rtd_message`
/// \param json the message in UTF-8
/// \param len its length in bytes
/// \param out receives the canonical bytes; release with rtd_buf_free()
/// \return RTD_OK; RTD_E_PROTOCOL when it is not such a message; RTD_E_ARG for an unknown kind; RTD_E_NULL
/// \threads any
rtd_result rtd_message_check(int32_t kind,
                             const uint8_t *json,
                             size_t len,
                             struct rtd_buf *out);

/// Makes a standalone document without any content, for joining a room: its structure comes from the peer.
///
/// \param out receives the handle, NULL on failure; release with rtd_doc_free()
/// \return RTD_OK; RTD_E_NULL
/// \threads any
rtd_result rtd_doc_new(struct rtd_doc **out);

/// Makes the document of a new room, with the structure of section 7.2 and no cells.
///
/// \param notebook_id its id in UTF-8
/// \param len length of the id in bytes
/// \param out receives the handle, NULL on failure; release with rtd_doc_free()
/// \return RTD_OK; RTD_E_UTF8; RTD_E_NULL
/// \threads any
rtd_result rtd_doc_create(const char *notebook_id, size_t len, struct rtd_doc **out);

/// Loads a saved document.
///
/// \param data saved bytes, or saved bytes followed by saved changes
/// \param len their number
/// \param out receives the handle, NULL on failure; release with rtd_doc_free()
/// \return RTD_OK; RTD_E_CORRUPT; RTD_E_NULL
/// \threads any
rtd_result rtd_doc_load(const uint8_t *data, size_t len, struct rtd_doc **out);

/// Saves the whole document.
///
/// \param doc the document
/// \param out receives the bytes; release with rtd_buf_free()
/// \return as rtd_doc_cells()
/// \threads any
rtd_result rtd_doc_save(const struct rtd_doc *doc, struct rtd_buf *out);

/// Saves the changes since some heads. Appended to a document that was saved at these heads, they make a newer one.
///
/// \param doc the document
/// \param heads change hashes of 32 bytes each, as rtd_doc_heads() gives them; (NULL, 0) means all changes
/// \param len length of `heads` in bytes, a multiple of 32
/// \param out receives the bytes, empty when nothing changed; release with rtd_buf_free()
/// \return as rtd_doc_cells(); RTD_E_ARG when `len` is no multiple of 32
/// \threads any
rtd_result rtd_doc_save_since(const struct rtd_doc *doc,
                              const uint8_t *heads,
                              size_t len,
                              struct rtd_buf *out);

/// The heads: the hashes of the newest changes, 32 bytes each. Equal heads mean equal documents.
///
/// \param doc the document
/// \param out receives the hashes; release with rtd_buf_free()
/// \return as rtd_doc_cells()
/// \threads any
rtd_result rtd_doc_heads(const struct rtd_doc *doc, struct rtd_buf *out);

/// The cells in document order, as a JSON array of objects with the members id, cell_type, source,
/// execution_count (number or null) and outputs (array of elements for rtd_output_resolve()).
///
/// \param doc the document
/// \param out receives the JSON; release with rtd_buf_free()
/// \return RTD_OK; RTD_E_STATE (session); RTD_E_NOT_FOUND or RTD_E_CLOSED (room); RTD_E_POISONED; RTD_E_NULL
/// \threads any
rtd_result rtd_doc_cells(const struct rtd_doc *doc,
                         struct rtd_buf *out);

/// One cell, as in rtd_doc_cells().
///
/// \param doc the document
/// \param cell_id id of the cell in UTF-8
/// \param len its length in bytes
/// \param out receives the JSON object; release with rtd_buf_free()
/// \return as rtd_doc_cells(); RTD_E_NOT_FOUND also when there is no such cell; RTD_E_UTF8
/// \threads any
rtd_result rtd_doc_cell(const struct rtd_doc *doc,
                        const char *cell_id,
                        size_t len,
                        struct rtd_buf *out);

/// The strings of the document's metadata, as a JSON object.
///
/// \param doc the document
/// \param out receives the JSON; release with rtd_buf_free()
/// \return as rtd_doc_cells()
/// \threads any
rtd_result rtd_doc_metadata(const struct rtd_doc *doc, struct rtd_buf *out);

/// Makes a standalone copy of a document as it was at some heads. Edits of the copy and of the original are concurrent
/// until one is merged into the other with rtd_doc_merge().
///
/// \param doc the document
/// \param heads change hashes of 32 bytes each, as rtd_doc_heads() gives them; (NULL, 0): as it is now
/// \param len length of `heads` in bytes, a multiple of 32
/// \param out receives the copy, NULL on failure; release with rtd_doc_free()
/// \return as rtd_doc_cells(); RTD_E_NOT_FOUND also for heads that the document never had; RTD_E_ARG
/// \threads any
rtd_result rtd_doc_fork(const struct rtd_doc *doc,
                        const uint8_t *heads,
                        size_t len,
                        struct rtd_doc **out);

/// Merges the changes of another copy of the same document, as if the copy were a peer that was away. Edits of a source
/// merge by character; what was inserted in both is there twice.
///
/// \param doc the document
/// \param other the other copy, not `doc` itself; it stays as it is
/// \return as rtd_doc_edit(), RTD_OK also when there is nothing new; RTD_E_ARG when `other` is no copy of this document
/// \threads any
rtd_result rtd_doc_merge(const struct rtd_doc *doc,
                         const struct rtd_doc *other);

/// Whether a document has all of these changes.
///
/// \param doc the document
/// \param heads change hashes of 32 bytes each, as rtd_doc_heads() gives them
/// \param len length of `heads` in bytes, a multiple of 32
/// \param out receives 1 or 0
/// \return as rtd_doc_cells(); RTD_E_ARG
/// \threads any
rtd_result rtd_doc_contains(const struct rtd_doc *doc,
                            const uint8_t *heads,
                            size_t len,
                            int32_t *out);

/// Releases a document that the caller owns: a standalone one, or the handle of a room's document (the room keeps
/// its document). NULL is fine; that of a session is left alone.
///
/// \param doc the document; not used afterwards
/// \threads exclusive
void rtd_doc_free(struct rtd_doc *doc);

/// Applies operations as one change; if one of them fails, nothing changes. A change of a session's document is sent
/// at once, that of a room is recorded and sent to its peers. The operations are a JSON array of objects with the
/// member `op`: insert_cell, delete_cell, move_cell, set_source,
/// splice_source, set_cell_type, append_outputs, replace_output, splice_outputs, clear_outputs,
/// set_execution_count, set_metadata. Their members:
///
/// - insert_cell: cell_id (new), cell_type, source, index (optional; the end when absent or past it)
/// - delete_cell, clear_outputs: cell_id; clearing also takes the execution count away
/// - move_cell: cell_id, index among the cells that remain
/// - set_source: cell_id, source; only what differs is touched
/// - splice_source: cell_id, index, delete, insert; text indices count Unicode code points
/// - set_cell_type: cell_id, cell_type
/// - append_outputs: cell_id, outputs (array of strings: elements of rtd_output_store())
/// - replace_output: cell_id, index, output (string), expect (optional: the string that must be there now)
/// - splice_outputs: cell_id, index, delete, outputs (array of strings), expect (optional: the array of the strings
///   that must be there now); made for merging stream text: sessions report a splice at the end of the list as
///   RTD_OUTPUT_JOINED, any other as RTD_EV_CLEARED and the outputs again
/// - set_execution_count: cell_id, execution_count (number or null)
/// - set_metadata: key, value (strings)
///
/// With "if_present": true an operation on a cell that does not exist is skipped instead of refused.
///
/// \param doc the document
/// \param ops the JSON array in UTF-8
/// \param len its length in bytes
/// \return RTD_OK; RTD_E_NOT_FOUND for an unknown cell; RTD_E_ARG for a bad operation; RTD_E_STATE or RTD_E_AGAIN
///   (session); RTD_E_NOT_FOUND (room); RTD_E_CLOSED (both); RTD_E_POISONED; RTD_E_NULL
/// \threads any
rtd_result rtd_doc_edit(const struct rtd_doc *doc,
                        const uint8_t *ops,
                        size_t len);

/// Inserts a cell with its source, as one change.
///
/// \param doc the document
/// \param cell_type "code", "markdown" or "raw"; any text is stored
/// \param type_len its length in bytes
/// \param source the source in UTF-8
/// \param source_len its length in bytes
/// \param index position in the notebook; negative or past the end: at the end
/// \param cell_id receives the new id, "cell-" and a random UUID; release with rtd_buf_free()
/// \return as rtd_doc_edit(); RTD_E_UTF8
/// \threads any
rtd_result rtd_doc_create_cell(const struct rtd_doc *doc,
                               const char *cell_type,
                               size_t type_len,
                               const char *source,
                               size_t source_len,
                               int64_t index,
                               struct rtd_buf *cell_id);

/// Sets the source of a cell by a minimal edit, so that concurrent edits merge.
///
/// \param doc the document
/// \param cell_id id of the cell in UTF-8
/// \param id_len its length in bytes
/// \param source the new source in UTF-8
/// \param source_len its length in bytes
/// \return as rtd_doc_edit(); RTD_E_UTF8
/// \threads any
rtd_result rtd_doc_set_source(const struct rtd_doc *doc,
                              const char *cell_id,
                              size_t id_len,
                              const char *source,
                              size_t source_len);

/// Deletes a cell. If it is running, it goes on running.
///
/// \param doc the document
/// \param cell_id id of the cell in UTF-8
/// \param len its length in bytes
/// \return as rtd_doc_set_source()
/// \threads any
rtd_result rtd_doc_delete_cell(const struct rtd_doc *doc, const char *cell_id, size_t len);

/// Makes the sync state for one connection.
///
/// \param out receives the handle, NULL on failure; release with rtd_sync_free()
/// \return RTD_OK; RTD_E_NULL
/// \threads any
rtd_result rtd_sync_new(struct rtd_sync **out);

/// Makes the next sync message for the peer.
///
/// \param sync the sync state of the peer
/// \param doc the document
/// \param out receives the message; release with rtd_buf_free()
/// \return RTD_OK; RTD_E_AGAIN when there is nothing to send now; RTD_E_ARG; RTD_E_POISONED; RTD_E_NULL
/// \threads any
rtd_result rtd_sync_generate(const struct rtd_sync *sync,
                             const struct rtd_doc *doc,
                             struct rtd_buf *out);

/// Applies a sync message of the peer.
///
/// \param sync the sync state of the peer
/// \param doc the document
/// \param message the message
/// \param len its length in bytes
/// \return RTD_OK; RTD_E_PROTOCOL when it cannot be decoded (the document is unchanged); RTD_E_ARG; RTD_E_POISONED;
///   RTD_E_NULL
/// \threads any
rtd_result rtd_sync_receive(const struct rtd_sync *sync,
                            const struct rtd_doc *doc,
                            const uint8_t *message,
                            size_t len);

/// Whether both copies are known to be equal: the peer's heads are those of the document, and the peer knows it.
///
/// \param sync the sync state of the peer
/// \param doc the document
/// \param out receives 1 or 0
/// \return RTD_OK; RTD_E_ARG; RTD_E_POISONED; RTD_E_NULL
/// \threads any
rtd_result rtd_sync_converged(const struct rtd_sync *sync,
                              const struct rtd_doc *doc,
                              int32_t *out);

/// Releases a sync state. NULL is fine.
///
/// \param sync the sync state; not used afterwards
/// \threads exclusive
void rtd_sync_free(struct rtd_sync *sync);

/// Converts an output to an element of a cell's `outputs`: its nbformat JSON when it is small (under 8192 bytes), else
/// the hash of a manifest that is written to the blob store (protocol 2, section 8).
///
/// \param blobs the store
/// \param json one nbformat output, an object, in UTF-8
/// \param len its length in bytes
/// \param out receives the element; release with rtd_buf_free()
/// \return RTD_OK; RTD_E_ARG when it is not a JSON object; RTD_E_TOO_BIG; RTD_E_IO; RTD_E_NULL
/// \threads any
rtd_result rtd_output_store(const struct rtd_blobs *blobs,
                            const uint8_t *json,
                            size_t len,
                            struct rtd_buf *out);

/// Converts an element of a cell's `outputs` back to an nbformat output.
///
/// \param blobs the store; NULL when there is none: then only elements that are nbformat JSON can be converted
/// \param element the element: nbformat JSON or the hash of a manifest
/// \param len its length in bytes
/// \param out receives one nbformat output as JSON; release with rtd_buf_free()
/// \return RTD_OK; RTD_E_NOT_FOUND for a missing blob; RTD_E_CORRUPT; RTD_E_IO; RTD_E_UTF8; RTD_E_NULL
/// \threads any
rtd_result rtd_output_resolve(const struct rtd_blobs *blobs,
                              const uint8_t *element,
                              size_t len,
                              struct rtd_buf *out);

/// Opens a blob store. Creates the directory with mode 0700 if it does not exist.
///
/// \param dir the directory in UTF-8
/// \param len its length in bytes
/// \param out receives the handle, NULL on failure; release with rtd_blobs_free()
/// \return RTD_OK; RTD_E_IO; RTD_E_UTF8; RTD_E_NULL
/// \threads any
rtd_result rtd_blobs_open(const char *dir, size_t len, struct rtd_blobs **out);

/// Stores bytes; storing the same bytes again changes nothing.
///
/// \param blobs the store
/// \param data the bytes
/// \param len their number, at most 104857600
/// \param media_type their media type in UTF-8
/// \param mlen its length in bytes
/// \param hash receives the 64 hexadecimal digits; release with rtd_buf_free()
/// \return RTD_OK; RTD_E_TOO_BIG; RTD_E_IO; RTD_E_UTF8; RTD_E_NULL
/// \threads any
rtd_result rtd_blobs_put(const struct rtd_blobs *blobs,
                         const uint8_t *data,
                         size_t len,
                         const char *media_type,
                         size_t mlen,
                         struct rtd_buf *hash);

/// Reads a blob and verifies its hash.
///
/// \param blobs the store
/// \param hash 64 hexadecimal digits
/// \param len their number
/// \param out receives the bytes; release with rtd_buf_free()
/// \return RTD_OK; RTD_E_NOT_FOUND, also when `hash` is not a hash; RTD_E_CORRUPT when the content does not have this
///   hash; RTD_E_IO; RTD_E_UTF8; RTD_E_NULL
/// \threads any
rtd_result rtd_blobs_get(const struct rtd_blobs *blobs,
                         const char *hash,
                         size_t len,
                         struct rtd_buf *out);

/// Releases the handle of a store; the files stay. NULL is fine.
///
/// \param blobs the store; not used afterwards
/// \threads exclusive
void rtd_blobs_free(struct rtd_blobs *blobs);

/// Makes the client side of a notebook connection. rtd_conn_output() returns its handshake at once.
///
/// \param notebook_id id of the room in UTF-8
/// \param len its length in bytes
/// \param out receives the handle, NULL on failure; release with rtd_conn_free()
/// \return RTD_OK; RTD_E_TOO_BIG; RTD_E_UTF8; RTD_E_NULL
/// \threads any
rtd_result rtd_conn_client(const char *notebook_id, size_t len, struct rtd_conn **out);

/// Makes the server side of a connection of any channel.
///
/// \param out receives the handle, NULL on failure; release with rtd_conn_free()
/// \return RTD_OK; RTD_E_NULL
/// \threads any
rtd_result rtd_conn_server(struct rtd_conn **out);

/// Adds bytes that the peer sent, in portions of any size.
///
/// \param conn the connection
/// \param data the bytes; copied
/// \param len their number
/// \return RTD_OK; RTD_E_POISONED; RTD_E_NULL
/// \threads any; the order of the calls is the order of the bytes
rtd_result rtd_conn_receive(const struct rtd_conn *conn, const uint8_t *data, size_t len);

/// Reports the end of the stream, and returns whether it came between two frames. The connection is over.
///
/// \param conn the connection
/// \return RTD_OK; RTD_E_PROTOCOL inside a frame; RTD_E_TOO_BIG after a length over the limit; RTD_E_POISONED; RTD_E_NULL
/// \threads any
rtd_result rtd_conn_eof(const struct rtd_conn *conn);

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
rtd_result rtd_conn_next_event(const struct rtd_conn *conn,
                               const struct rtd_doc *doc,
                               uint64_t now_ms,
                               struct rtd_event *event);

/// Client side: sends a request (protocol 2, section 5.6).
///
/// \param conn the connection
/// \param token chosen by the caller
/// \param json the request, a JSON object
/// \param len its length in bytes
/// \return RTD_OK; RTD_E_ARG; RTD_E_STATE on the server side; RTD_E_PROTOCOL when the daemon speaks protocol 1;
///   RTD_E_TOO_BIG; RTD_E_POISONED; RTD_E_NULL
/// \threads any
rtd_result rtd_conn_request(const struct rtd_conn *conn,
                            uint64_t token,
                            const uint8_t *json,
                            size_t len);

/// Server side: the room is known; capabilities and the first sync message are queued.
///
/// \param conn the connection
/// \param capabilities JSON object whose members join the capabilities frame; (NULL, 0) for none
/// \param len its length in bytes
/// \return RTD_OK; RTD_E_STATE on the client side or before RTD_EV_ROOM_WANTED; RTD_E_ARG; RTD_E_POISONED; RTD_E_NULL
/// \threads any
rtd_result rtd_conn_join(const struct rtd_conn *conn,
                         const uint8_t *capabilities,
                         size_t len);

/// Server side: answers a request event.
///
/// \param conn the connection
/// \param token token of the event
/// \param json the response, a JSON object
/// \param len its length in bytes
/// \return RTD_OK; RTD_E_NOT_FOUND; RTD_E_ARG; RTD_E_STATE on the client side; RTD_E_POISONED; RTD_E_NULL
/// \threads any
rtd_result rtd_conn_respond(const struct rtd_conn *conn,
                            uint64_t token,
                            const uint8_t *json,
                            size_t len);

/// Server side: queues a broadcast after the changes made so far.
///
/// \param conn the connection
/// \param json the broadcast, a JSON object
/// \param len its length in bytes
/// \return RTD_OK; RTD_E_ARG; RTD_E_STATE on the client side; RTD_E_POISONED; RTD_E_NULL
/// \threads any
rtd_result rtd_conn_broadcast(const struct rtd_conn *conn, const uint8_t *json, size_t len);

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
rtd_result rtd_conn_output(const struct rtd_conn *conn,
                           const struct rtd_doc *doc,
                           int32_t moved,
                           uint64_t now_ms,
                           struct rtd_buf *out);

/// Releases a connection. NULL is fine.
///
/// \param conn the connection; not used afterwards
/// \threads exclusive
void rtd_conn_free(struct rtd_conn *conn);

/* rtd-cdef-end */

#ifdef __cplusplus
}
#endif

#endif /* RUNTIMED_FFI_H */
