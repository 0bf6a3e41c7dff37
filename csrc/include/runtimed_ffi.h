/*
 * runtimed_ffi.h - live, shared notebooks behind a C ABI.
 *
 * Generated from csrc/src/abi by `make header`; change the Rust sources, not this file.
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * Two tiers. The pure one (rtd_frame_*, rtd_decoder_*, rtd_message_*, rtd_doc_*, rtd_sync_*,
 * rtd_blobs_*, rtd_output_*) turns bytes into bytes: no thread, no file descriptor, no clock;
 * only the blob store touches the disk. rtd_conn_* is a whole connection made of that, for hosts with an
 * I/O loop of their own. The driven tier (rtd_session_*, rtd_host_*) owns sockets and one thread per
 * process, and speaks through a queue of events. "Section 5.6" and the like are those of protocol 2.
 *
 * A client: rtd_session_open; take events until RTD_EV_READY; launch a kernel with rtd_session_request
 * ({"action":"launch_kernel",...}); edit with rtd_session_create_cell or _edit; rtd_session_execute; take
 * RTD_EV_OUTPUT until RTD_EV_DONE; rtd_session_free. A host: rtd_host_open; answer RTD_EV_ROOM_WANTED with
 * rtd_host_open_room and RTD_EV_REQUEST with rtd_host_respond; show outputs with rtd_host_publish.
 * examples/c in the sources has a program for each.
 *
 * Results. Functions return RTD_OK (0) or a negative RTD_E_*. A failing call leaves its text for
 * this thread in rtd_last_error; a succeeding call does not touch it. Outputs are untouched on
 * failure, except handles, which become NULL. Besides the codes listed at a function, any may return
 * RTD_E_PANIC, and those of a session or host RTD_E_STATE in a forked child. Memory that runs out aborts
 * the process.
 *
 * Arguments. Inputs first, outputs last. Text is UTF-8 with its length, zero bytes allowed;
 * (NULL, 0) is empty, (NULL, n) is RTD_E_NULL. Numbers that name something are int32_t, so that
 * an unknown one is an error and not undefined.
 *
 * Ownership. A handle that a function gives through `out` (rtd_x_new, _open, _create, _load,
 * rtd_conn_client, rtd_conn_server) is released once by rtd_x_free, an rtd_buf by rtd_buf_free; NULL is
 * fine for both. A function that fills an rtd_buf does not free what was in it. What the host passes in is
 * read or copied during the call. Everything else is borrowed, and the comment says until when.
 *
 * Threads. Any function of a live handle may be called from any thread, except that one thread
 * at a time takes events from a queue and that free is the last call: no other call of that handle is
 * under way or follows. The library installs no signal handler and writes to sockets without SIGPIPE.
 * After fork() it answers RTD_E_STATE for sessions and hosts of the parent; freeing one in the child does
 * nothing to the parent. The child may open its own.
 *
 * Structs that the host allocates start with struct_size; their rtd_x_options_init sets it and the
 * defaults. They only grow at the end.
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


/**
 * Result of a call, and code of an event. Zero is success, errors are negative and never renumbered.
 */
typedef enum rtd_code {
  /**
   * Success.
   */
  RTD_OK = 0,
  /**
   * Nothing there now, or a bound is reached: try again when something happened.
   */
  RTD_E_AGAIN = -1,
  /**
   * The handle or the connection is closed.
   */
  RTD_E_CLOSED = -2,
  /**
   * A pointer that must not be NULL is NULL.
   */
  RTD_E_NULL = -3,
  /**
   * An argument is wrong; the caller can mend it.
   */
  RTD_E_ARG = -4,
  /**
   * Text is not UTF-8.
   */
  RTD_E_UTF8 = -5,
  /**
   * Larger than the protocol or a limit allows.
   */
  RTD_E_TOO_BIG = -6,
  /**
   * The peer broke the protocol.
   */
  RTD_E_PROTOCOL = -7,
  /**
   * The operating system refused; the text is its own.
   */
  RTD_E_IO = -8,
  /**
   * A time limit passed.
   */
  RTD_E_TIMEOUT = -9,
  /**
   * No such cell, room, request, peer or blob.
   */
  RTD_E_NOT_FOUND = -10,
  /**
   * Not possible in this state, or in a forked child.
   */
  RTD_E_STATE = -11,
  /**
   * Header and library do not fit.
   */
  RTD_E_VERSION = -12,
  /**
   * The library failed; the handle is poisoned.
   */
  RTD_E_PANIC = -13,
  /**
   * The library failed in this handle before.
   */
  RTD_E_POISONED = -14,
  /**
   * Stored data cannot be read; it was left as it is.
   */
  RTD_E_CORRUPT = -15,
} rtd_code;

/**
 * Kinds of events. 1 to 12 come from sessions, 20 and above from hosts, RTD_EV_CLOSED from both.
 */
typedef enum rtd_event_kind {
  /**
   * No event.
   */
  RTD_EV_NONE = 0,
  /**
   * The room was joined and its document is here. payload: capabilities of the daemon.
   */
  RTD_EV_READY = 1,
  /**
   * Peers changed the document. payload: {"cells":[ids],"order":bool,"metadata":bool}. A hint that waits
   * takes in the ones after it; the document has the changes already.
   */
  RTD_EV_CHANGED = 2,
  /**
   * End of a request. code RTD_OK: payload is the response, which may be a refusal ({"result":"error",...});
   * else text says why there is none: RTD_E_TIMEOUT, RTD_E_CLOSED, or the code of RTD_EV_CLOSED.
   */
  RTD_EV_RESPONSE = 3,
  /**
   * The daemon accepted an execution. payload: its response.
   */
  RTD_EV_QUEUED = 4,
  /**
   * The kernel started the cell. number: execution count. The document may be ahead of what the daemon tells:
   * outputs can come before this.
   */
  RTD_EV_STARTED = 5,
  /**
   * An output. number: index in the cell; code: `rtd_output_change`; payload: nbformat output; text: plain text.
   * If its blob cannot be read, payload is the element of the document as a JSON string and text the reason.
   */
  RTD_EV_OUTPUT = 6,
  /**
   * The outputs of the cell were cleared. number: how many outputs follow that were there before, because an
   * execution was joined under way; else -1.
   */
  RTD_EV_CLEARED = 7,
  /**
   * End of an execution. code: `rtd_done`; number: execution count, -1 if it never started; text: reason.
   */
  RTD_EV_DONE = 8,
  /**
   * Any broadcast (section 5.8) but `output`. payload: as received.
   */
  RTD_EV_BROADCAST = 9,
  /**
   * End of rtd_session_sync(). code: RTD_OK, or as for RTD_EV_RESPONSE with text.
   */
  RTD_EV_SYNCED = 10,
  /**
   * Events that do not end anything were dropped at the bound of the queue: read the document.
   */
  RTD_EV_RESYNC = 11,
  /**
   * The last event. code: RTD_OK when closed by this side, RTD_E_CLOSED by the daemon, RTD_E_TIMEOUT when the
   * daemon did not let us in, stopped answering or did not take what was written, RTD_E_PROTOCOL, RTD_E_IO, RTD_E_PANIC; text: why.
   */
  RTD_EV_CLOSED = 12,
  /**
   * A peer asks for a room that is not open: answer with rtd_host_open_room() or rtd_host_refuse_room().
   */
  RTD_EV_ROOM_WANTED = 20,
  /**
   * A peer entered a room. number: peers in it now.
   */
  RTD_EV_PEER_JOINED = 21,
  /**
   * A peer left a room; its requests need no answer any more. number: peers in it now; code: RTD_OK for a plain
   * end, RTD_E_TOO_BIG when it did not read, RTD_E_PROTOCOL, RTD_E_TIMEOUT, RTD_E_IO, RTD_E_PANIC; text: why.
   */
  RTD_EV_PEER_LEFT = 22,
  /**
   * A request. code: `rtd_channel`; payload: the request (or the blob's bytes). Answer once with rtd_host_respond().
   * execute_cell and run_all_cells have an added member `at_request`: an array of the cells they mean (id,
   * cell_type, source) as they were when the request came.
   */
  RTD_EV_REQUEST = 23,
  /**
   * Peers changed a room's document. payload as RTD_EV_CHANGED. Hints collapse per room.
   */
  RTD_EV_ROOM_CHANGED = 24,
  /**
   * code RTD_E_IO: the room's journal cannot be written at present (the room goes on, every change tries again);
   * any other code: the room failed and was closed.
   */
  RTD_EV_ROOM_FAILED = 25,
  /**
   * Peers changed the settings: rtd_host_settings(). Not told again until they were read.
   */
  RTD_EV_SETTINGS_CHANGED = 26,
  /**
   * As RTD_EV_ROOM_FAILED, for the settings.
   */
  RTD_EV_SETTINGS_FAILED = 27,
} rtd_event_kind;

/**
 * How an execution ended.
 */
typedef enum rtd_done {
  /**
   * Without an error.
   */
  RTD_DONE_OK = 0,
  /**
   * With an error of the code; it is the last error output.
   */
  RTD_DONE_ERROR = 1,
  /**
   * By an interrupt.
   */
  RTD_DONE_INTERRUPTED = 2,
  /**
   * It never ran, or its kernel was shut down.
   */
  RTD_DONE_CANCELLED = 3,
  /**
   * The kernel died.
   */
  RTD_DONE_KERNEL_DIED = 4,
  /**
   * The kernel could not be started.
   */
  RTD_DONE_LAUNCH_FAILED = 5,
  /**
   * The caller's time limit passed; the cell goes on.
   */
  RTD_DONE_TIMED_OUT = 6,
  /**
   * The connection ended.
   */
  RTD_DONE_DISCONNECTED = 7,
  /**
   * The daemon refused the request; text is its reason, payload its response.
   */
  RTD_DONE_REFUSED = 8,
} rtd_done;

/**
 * What an output event did to the list of outputs.
 */
typedef enum rtd_output_change {
  /**
   * Inserted at the index, normally the end.
   */
  RTD_OUTPUT_APPENDED = 0,
  /**
   * Took the place of the one at the index.
   */
  RTD_OUTPUT_REPLACED = 1,
  /**
   * Stream text that had come in pieces is one output now, at the index: it takes the place of the pieces, which
   * are all outputs from there on. Payload and text are only what it has more than they had together, so nothing
   * is told twice; often that is an empty text.
   */
  RTD_OUTPUT_JOINED = 2,
  /**
   * Takes the place of all outputs from the index on. So a merge is told if the library cannot compare the texts,
   * because a blob is not at hand; the payload is the whole output.
   */
  RTD_OUTPUT_REPLACED_ALL = 3,
} rtd_output_change;

/**
 * Where a request came from.
 */
typedef enum rtd_channel {
  /**
   * A peer of a room (protocol 2, section 5.6).
   */
  RTD_CHANNEL_NOTEBOOK = 1,
  /**
   * The pool channel (section 4).
   */
  RTD_CHANNEL_POOL = 2,
  /**
   * The blob channel (section 8.6): with an id, payload holds bytes to store and id their media type.
   */
  RTD_CHANNEL_BLOB = 3,
  /**
   * The pool state (section 11.2). Only from rtd_conn_next_event(): a host answers by itself,
   * see rtd_host_announce_pool_state().
   */
  RTD_CHANNEL_POOL_STATE = 4,
  /**
   * The settings (section 11.1). Only from rtd_conn_next_event(): a host answers by itself, see
   * rtd_host_open_settings().
   */
  RTD_CHANNEL_SETTINGS = 5,
} rtd_channel;

/**
 * Version of the C ABI this header describes. A library with the same major and at least this
 * minor number fits.
 */
typedef enum rtd_abi {
  /**
   * Changes when something is removed or means something else.
   */
  RTD_ABI_MAJOR = 0,
  /**
   * Changes when something is added.
   */
  RTD_ABI_MINOR = 3,
} rtd_abi;

/**
 * Flags of a session.
 */
typedef enum rtd_session_flag {
  /**
   * RTD_EV_OUTPUT and RTD_EV_CLEARED also for cells that others run, with token 0.
   */
  RTD_SESSION_WATCH_ALL = 1,
} rtd_session_flag;

/**
 * Kinds of frames of the notebook channel (protocol 2, section 5.1).
 */
typedef enum rtd_frame {
  /**
   * No type byte: handshakes, capabilities, the other channels.
   */
  RTD_FRAME_UNTYPED = -1,
  /**
   * Automerge sync message.
   */
  RTD_FRAME_SYNC = 0,
  /**
   * Request, JSON.
   */
  RTD_FRAME_REQUEST = 1,
  /**
   * Response, JSON.
   */
  RTD_FRAME_RESPONSE = 2,
  /**
   * Broadcast, JSON.
   */
  RTD_FRAME_BROADCAST = 3,
} rtd_frame;

/**
 * Limits of the length that a frame may announce, in bytes.
 */
typedef enum rtd_frame_limit {
  /**
   * First frame of every connection.
   */
  RTD_LIMIT_CONTROL = 65536,
  /**
   * Every other frame.
   */
  RTD_LIMIT_DATA = 104857600,
} rtd_frame_limit;

/**
 * Kinds of JSON messages.
 */
typedef enum rtd_message {
  /**
   * First frame of a connection (protocol 2, section 3).
   */
  RTD_MESSAGE_HANDSHAKE = 0,
  /**
   * Capabilities of the notebook channel (3.1).
   */
  RTD_MESSAGE_CAPABILITIES = 1,
  /**
   * Notebook request (5.6).
   */
  RTD_MESSAGE_REQUEST = 2,
  /**
   * Notebook response (5.7).
   */
  RTD_MESSAGE_RESPONSE = 3,
  /**
   * Notebook broadcast (5.8).
   */
  RTD_MESSAGE_BROADCAST = 4,
  /**
   * Pool request (4.1).
   */
  RTD_MESSAGE_POOL_REQUEST = 5,
  /**
   * Pool response (4.2).
   */
  RTD_MESSAGE_POOL_RESPONSE = 6,
  /**
   * Blob request (8.6).
   */
  RTD_MESSAGE_BLOB_REQUEST = 7,
  /**
   * Blob response (8.6).
   */
  RTD_MESSAGE_BLOB_RESPONSE = 8,
  /**
   * Pool state (11.2).
   */
  RTD_MESSAGE_POOL_STATE = 9,
} rtd_message;

/**
 * A directory of blobs named by the SHA-256 of their content (protocol 2, section 8.4).
 */
typedef struct rtd_blobs rtd_blobs;

/**
 * One connection, client or server side.
 */
typedef struct rtd_conn rtd_conn;

/**
 * Splits a byte stream into frames. Not a thread, not a socket: bytes in, frames out.
 */
typedef struct rtd_decoder rtd_decoder;

/**
 * A notebook: an Automerge document with the schema of protocol 2, section 7. There are three sorts, with the same
 * functions. A standalone document comes from rtd_doc_new(), _create(), _load() or _fork(); rtd_sync and rtd_conn
 * take this sort only. The document of a session (rtd_session_doc()) is its replica: a change is sent at once; its
 * functions return RTD_E_STATE before RTD_EV_READY, and those that change it RTD_E_CLOSED after the end of the
 * connection and RTD_E_AGAIN while the daemon leaves more than 256 MiB unread. The document of a room
 * (rtd_host_doc()) is the one that its peers share: a change is recorded and sent to them; its functions return
 * RTD_E_NOT_FOUND while the room is not open and RTD_E_CLOSED once the host is closed.
 */
typedef struct rtd_doc rtd_doc;

/**
 * Rooms on one socket. Documents, sync, order and fan-out are the library's work; requests of peers
 * become events, and what they mean is the host program's.
 */
typedef struct rtd_host rtd_host;

/**
 * The events of a session or a host. Borrowed from it: rtd_session_queue() and rtd_host_queue() always return the
 * same one; it is never freed by itself and ends with rtd_session_free() or rtd_host_free(). A call of the queue
 * counts as a call of its session or host. After close it still hands out the events that wait; RTD_EV_CLOSED is
 * the last, and from then on its functions return RTD_E_CLOSED.
 */
typedef struct rtd_queue rtd_queue;

/**
 * A client of one room: a replica of its document, requests, executions, events.
 */
typedef struct rtd_session rtd_session;

/**
 * What one peer's copy of a document is known to hold. One per connection; empty at first. Its functions take a
 * standalone document only (RTD_E_ARG for others).
 */
typedef struct rtd_sync rtd_sync;

/**
 * `RTD_OK` (0) or a negative `RTD_E_*` of `rtd_code`.
 */
typedef int32_t rtd_result;

/**
 * Bytes owned by the library. Start from all zeros (`rtd_buf b = {0}`), release with rtd_buf_free().
 */
typedef struct rtd_buf {
  /**
   * The bytes; NULL when there are none. Not terminated.
   */
  uint8_t *data;
  /**
   * Number of bytes.
   */
  size_t len;
  /**
   * Private to the library.
   */
  size_t cap;
} rtd_buf;

/**
 * One event of a session, a host or a connection. Set `struct_size` to `sizeof(rtd_event)` before the call. The
 * pointers are borrowed: they end with the next call of next_event, dispatch or free on that handle,
 * and in a function called by dispatch, when it returns. None of the texts is terminated. Members that
 * the kind does not mention are zero, empty, or -1 for `number`.
 */
typedef struct rtd_event {
  /**
   * Size of this struct as the caller knows it.
   */
  uint32_t struct_size;
  /**
   * One of `rtd_event_kind`.
   */
  int32_t kind;
  /**
   * A result code; RTD_EV_DONE: `rtd_done`; RTD_EV_OUTPUT: `rtd_output_change`; RTD_EV_REQUEST: `rtd_channel`.
   */
  int32_t code;
  /**
   * Zero.
   */
  int32_t reserved;
  /**
   * Position on this queue: 1, 2, 3, ... without a gap; 0 from rtd_conn_next_event().
   */
  uint64_t seq;
  /**
   * Session: the token of the call that this event belongs to, 0 for none. Host: the token to answer.
   */
  uint64_t token;
  /**
   * Host: number of the connection.
   */
  uint64_t peer;
  /**
   * Execution count, index of an output, or number of peers; -1 when unknown.
   */
  int64_t number;
  /**
   * Cell id (session), notebook id (host), media type (a blob to store).
   */
  const char *id;
  /**
   * Length of `id` in bytes.
   */
  size_t id_len;
  /**
   * JSON, unless the kind says otherwise.
   */
  const uint8_t *payload;
  /**
   * Length of `payload` in bytes.
   */
  size_t payload_len;
  /**
   * Plain text of an output, or the reason of an end.
   */
  const char *text;
  /**
   * Length of `text` in bytes.
   */
  size_t text_len;
} rtd_event;

/**
 * Called by rtd_queue_dispatch(), on the thread that called it. May call any function of this library except
 * rtd_queue_next() and rtd_queue_dispatch() of the same queue and free of its session or host. Must return
 * normally: no exception, no longjmp.
 */
typedef void (*rtd_event_fn)(void *userdata, const struct rtd_event *event);

/**
 * Called from any thread when events wait, perhaps from several at the same time. Must return at once and call no
 * function of this library: it may run in the middle of one. The same holds for a finalizer.
 */
typedef void (*rtd_wakeup_fn)(void *userdata);

/**
 * Options of rtd_session_open(). Fill with rtd_session_options_init(), then change what you want.
 */
typedef struct rtd_session_options {
  /**
   * sizeof(rtd_session_options) of the caller.
   */
  uint32_t struct_size;
  /**
   * A sum of `rtd_session_flag`; default 0.
   */
  uint32_t flags;
  /**
   * Milliseconds for handshake and first synchronisation; negative: no limit. Default 10000.
   */
  int64_t connect_timeout_ms;
  /**
   * Bytes of events kept for a host that does not take them, see RTD_EV_RESYNC; default 67108864.
   */
  uint64_t queue_limit;
  /**
   * Directory of blobs in UTF-8; NULL: what the daemon says, else `blobs` beside the socket.
   */
  const char *blobs_dir;
  /**
   * Length of `blobs_dir` in bytes.
   */
  size_t blobs_dir_len;
} rtd_session_options;

/**
 * Options of rtd_host_open(). Fill with rtd_host_options_init(), then change what you want.
 */
typedef struct rtd_host_options {
  /**
   * sizeof(rtd_host_options) of the caller.
   */
  uint32_t struct_size;
  /**
   * Connections at one time; further ones are closed at once. Default 1024.
   */
  uint32_t max_peers;
  /**
   * Milliseconds a connection has for its handshake; negative: no limit. Default 10000.
   */
  int64_t handshake_timeout_ms;
  /**
   * Bytes kept for a peer that does not read; beyond, it is disconnected. Also bytes of requests without an answer;
   * beyond, what it sends waits. Default 67108864.
   */
  uint64_t peer_limit;
  /**
   * JSON object whose members join the capabilities frame; NULL for none. The member `blobs`, a directory,
   * tells sessions where the blobs of rtd_output_store() lie, unless that is `blobs` beside the socket.
   */
  const uint8_t *capabilities;
  /**
   * Length of `capabilities` in bytes.
   */
  size_t capabilities_len;
} rtd_host_options;

/**
 * The ABI version of the loaded library.
 *
 * \return major number << 16 | minor number
 * \threads any
 */
uint32_t rtd_abi_version(void);

/**
 * The version of the library as text, such as "0.1.0".
 *
 * \return static text, never NULL
 * \threads any
 */
const char *rtd_version(void);

/**
 * Whether the library has a feature: "protocol-2", "session", "host", "journal", "blobs", "conn".
 *
 * \param feature name in UTF-8
 * \param len its length in bytes
 * \return 1 or 0; 0 for names it never heard of
 * \threads any
 */
int32_t rtd_has(const char *feature, size_t len);

/**
 * Copies the text of the last failure on this thread: UTF-8, with a final NUL where `cap` has room
 * for one. Every failing call sets it and no succeeding call touches it, so read it right after the
 * failure and on the same thread.
 *
 * \param buf where to write at most `cap` bytes; may be NULL when `cap` is 0
 * \param cap size of `buf` in bytes
 * \param len receives the length of the whole text in bytes, without NUL
 * \return RTD_OK; RTD_E_NULL when `len`, or `buf` with a positive `cap`, is NULL
 * \threads any
 */
rtd_result rtd_last_error(char *buf, size_t cap, size_t *len);

/**
 * The name of a result code, such as "RTD_E_IO"; "RTD_E_UNKNOWN" for any other number.
 *
 * \param code any number
 * \return static text, never NULL
 * \threads any
 */
const char *rtd_result_name(rtd_result code);

/**
 * Releases the bytes of a buffer and sets it to zeros. NULL and an empty buffer are fine.
 *
 * \param buf a buffer filled by this library
 * \threads any; the buffer must not be in use elsewhere
 */
void rtd_buf_free(struct rtd_buf *buf);

/**
 * A descriptor that is readable exactly while an event waits, or after the last one was taken. Poll it; never read
 * or close it. It lives as long as the queue.
 *
 * \param queue the queue
 * \return the descriptor; -1 for NULL and in a forked child
 * \threads any
 */
int32_t rtd_queue_fd(const struct rtd_queue *queue);

/**
 * Takes the next event. Never waits for the other side; for a session, it reads a blob file when an output is stored
 * in one.
 *
 * \param queue the queue
 * \param event struct_size set by the caller; receives the event, borrowed until the next rtd_queue_next() or
 *   rtd_queue_dispatch() of this queue
 * \return RTD_OK; RTD_E_AGAIN when no event waits; RTD_E_CLOSED after RTD_EV_CLOSED was taken; RTD_E_STATE in a forked
 *   child; RTD_E_VERSION; RTD_E_NULL
 * \threads one consumer at a time
 */
rtd_result rtd_queue_next(const struct rtd_queue *queue,
                          struct rtd_event *event);

/**
 * Blocks until an event waits. Does not take it.
 *
 * \param queue the queue
 * \param timeout_ms milliseconds; negative: no limit
 * \return RTD_OK; RTD_E_TIMEOUT; RTD_E_AGAIN when rtd_queue_wake() ended the wait; RTD_E_CLOSED after RTD_EV_CLOSED was
 *   taken; RTD_E_STATE in a forked child; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_queue_wait(const struct rtd_queue *queue,
                          int64_t timeout_ms);

/**
 * Ends one rtd_queue_wait(), the current or the next one, and is never lost. Adds no event and leaves the descriptor
 * as it is: a program that polls needs another way to wake itself.
 *
 * \param queue the queue
 * \return RTD_OK; RTD_E_STATE in a forked child; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_queue_wake(const struct rtd_queue *queue);

/**
 * Passes the events that wait to a function, on the calling thread. Does not wait.
 *
 * \param queue the queue
 * \param fn called with `userdata` and the event, which is borrowed until it returns
 * \param userdata passed through
 * \param max the largest number of events to pass
 * \param delivered receives the number of events that were passed, 0 when none waited
 * \return RTD_OK; RTD_E_CLOSED when RTD_EV_CLOSED was taken before; RTD_E_STATE in a forked child; RTD_E_NULL
 * \threads one consumer at a time
 */
rtd_result rtd_queue_dispatch(const struct rtd_queue *queue,
                              rtd_event_fn fn,
                              void *userdata,
                              size_t max,
                              size_t *delivered);

/**
 * Sets the function that is called when events wait; NULL clears it. Called at once when events wait already. One
 * call may stand for several events: take events until none waits.
 *
 * \param queue the queue
 * \param fn the function, or NULL
 * \param userdata passed through
 * \param finalizer called once with `userdata`, on any thread, after the last call of `fn`: when `fn` is replaced or
 *   cleared, or the session or host is freed; may be NULL. Not called when this function fails
 * \return RTD_OK; RTD_E_STATE in a forked child; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_queue_set_wakeup(const struct rtd_queue *queue,
                                rtd_wakeup_fn fn,
                                void *userdata,
                                rtd_wakeup_fn finalizer);

/**
 * Fills options with their defaults.
 *
 * \param options the options; NULL is ignored
 * \param size sizeof(rtd_session_options) of the caller; another size is ignored
 * \threads any
 */
void rtd_session_options_init(struct rtd_session_options *options, size_t size);

/**
 * Connects to a daemon and starts joining a room; the daemon makes one that is new. RTD_EV_READY follows, or
 * RTD_EV_CLOSED. Until then only close, free, info and the functions of the queue are of use.
 *
 * \param socket_path path of the daemon's socket in UTF-8
 * \param path_len its length in bytes
 * \param notebook_id id of the room in UTF-8; any text
 * \param id_len its length in bytes
 * \param options NULL for the defaults
 * \param out receives the handle, NULL on failure; release with rtd_session_free()
 * \return RTD_OK; RTD_E_IO with the system's text when nobody listens; RTD_E_TIMEOUT when the daemon accepts nobody
 *   (blocks so long, where the system makes callers wait in line); RTD_E_AGAIN when a signal came meanwhile and had a
 *   handler: call again, or out_handle up; RTD_E_TOO_BIG for an id that does not fit the handshake; RTD_E_ARG for unknown flags; RTD_E_VERSION; RTD_E_UTF8; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_session_open(const char *socket_path,
                            size_t path_len,
                            const char *notebook_id,
                            size_t id_len,
                            const struct rtd_session_options *options,
                            struct rtd_session **out);

/**
 * Leaves the room: everything under way ends with its terminal event at once. RTD_EV_CLOSED is the last one; it
 * comes when the daemon has what was written here, or, with RTD_E_TIMEOUT, when it has taken nothing of it for
 * 10 seconds. Does not wait for that. The handle stays valid. Idempotent.
 *
 * \param session the session
 * \return RTD_OK; RTD_E_STATE in a forked child; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_session_close(const struct rtd_session *session);

/**
 * Closes and releases a session and drops events not taken, and what was written and is not sent: close first and
 * take events until RTD_EV_CLOSED where that matters. NULL is fine. Waits for the I/O thread when this was
 * the last session or host, so not from a wakeup function. In a forked child nothing is touched.
 *
 * \param session the session; not used afterwards
 * \threads exclusive
 */
void rtd_session_free(struct rtd_session *session);

/**
 * The queue of a session's events.
 *
 * \param session the session
 * \return the queue, borrowed from the session: always the same, valid until rtd_session_free(), never freed by
 *   itself; NULL for NULL
 * \threads any
 */
struct rtd_queue *rtd_session_queue(const struct rtd_session *session);

/**
 * The session's replica of the document. Reading it takes no I/O, and is possible after the end of the connection
 * too; a change is sent at once.
 *
 * \param session the session
 * \return the document, borrowed from the session: always the same, valid until rtd_session_free(), never freed by
 *   itself; NULL for NULL
 * \threads any
 */
struct rtd_doc *rtd_session_doc(const struct rtd_session *session);

/**
 * Turns events about outputs of cells that others run on or off (they carry token 0).
 *
 * \param session the session
 * \param on 0 or 1
 * \return RTD_OK; RTD_E_STATE in a forked child; RTD_E_POISONED; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_session_watch(const struct rtd_session *session, int32_t on);

/**
 * Sends a request (section 5.6), behind all local edits. It ends in exactly one RTD_EV_RESPONSE with this
 * token. The daemon works on requests of one session in order.
 *
 * \param session the session
 * \param token chosen by the caller; best below 2^53, not 0, and not that of another call under way
 * \param json the request, an object with the member `action`, in UTF-8
 * \param len its length in bytes
 * \param timeout_ms milliseconds until RTD_E_TIMEOUT; negative: no limit
 * \return RTD_OK; RTD_E_ARG when it is no request; RTD_E_AGAIN with 1024 calls under way, or while the daemon leaves
 *   more than 256 MiB unread; RTD_E_STATE before RTD_EV_READY or in a forked child; RTD_E_PROTOCOL when the daemon
 *   speaks protocol 1 only; RTD_E_TOO_BIG; RTD_E_CLOSED; RTD_E_POISONED; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_session_request(const struct rtd_session *session,
                               uint64_t token,
                               const uint8_t *json,
                               size_t len,
                               int64_t timeout_ms);

/**
 * Executes a code cell of the shared document as it stands now, local edits included. Events with
 * this token follow: RTD_EV_QUEUED, RTD_EV_STARTED, RTD_EV_OUTPUT and RTD_EV_CLEARED as they happen, and at the
 * end exactly one RTD_EV_DONE. A cell that does not exist, or that cannot run, ends in RTD_DONE_REFUSED.
 *
 * \param session the session
 * \param token as for rtd_session_request()
 * \param cell_id id of the cell in UTF-8
 * \param len its length in bytes
 * \param timeout_ms milliseconds until RTD_DONE_TIMED_OUT; negative: no limit
 * \return as rtd_session_request(); RTD_E_UTF8
 * \threads any
 */
rtd_result rtd_session_execute(const struct rtd_session *session,
                               uint64_t token,
                               const char *cell_id,
                               size_t len,
                               int64_t timeout_ms);

/**
 * Asks for one RTD_EV_SYNCED with this token, once the daemon has every local change and this replica
 * every change the daemon announced.
 *
 * \param session the session
 * \param token as for rtd_session_request()
 * \param timeout_ms milliseconds until RTD_E_TIMEOUT; negative: no limit
 * \return as rtd_session_request()
 * \threads any
 */
rtd_result rtd_session_sync(const struct rtd_session *session,
                            uint64_t token,
                            int64_t timeout_ms);

/**
 * What is known of the connection, as a JSON object with the members notebook_id, state ("connecting",
 * "ready", "closed"), reason (text once closed, else null), protocol ("v1" or "v2"), capabilities (object),
 * kernel_status (text, null before the first broadcast of it), executing (cell id or null), queued (array of
 * cell ids), queue_bytes (bytes of events that wait), unsent (whether the daemon may not have
 * everything yet that was written here), blobs_dir. No I/O.
 *
 * \param session the session
 * \param out receives the JSON; release with rtd_buf_free()
 * \return RTD_OK; RTD_E_STATE in a forked child; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_session_info(const struct rtd_session *session,
                            struct rtd_buf *out);

/**
 * Fills options with their defaults.
 *
 * \param options the options; NULL is ignored
 * \param size sizeof(rtd_host_options) of the caller; another size is ignored
 * \threads any
 */
void rtd_host_options_init(struct rtd_host_options *options, size_t size);

/**
 * Listens on a socket (mode 0600). A socket file that nobody answers on is replaced; a live one, and a file that
 * is no socket, are not.
 *
 * \param socket_path path of the socket in UTF-8
 * \param len its length in bytes, at most 107 on Linux
 * \param options NULL for the defaults
 * \param out receives the handle, NULL on failure; release with rtd_host_free()
 * \return RTD_OK; RTD_E_IO with the system's text, also when another daemon listens there; RTD_E_ARG; RTD_E_VERSION;
 *   RTD_E_UTF8; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_host_open(const char *socket_path,
                         size_t len,
                         const struct rtd_host_options *options,
                         struct rtd_host **out);

/**
 * Stops listening, disconnects every peer, removes the socket file. RTD_EV_CLOSED is the last event.
 * The handle stays valid. Idempotent.
 *
 * \param host the host
 * \return RTD_OK; RTD_E_STATE in a forked child; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_host_close(const struct rtd_host *host);

/**
 * Closes and releases a host and drops events not taken. NULL is fine. Waits for the I/O thread when this was
 * the last session or host, so not from a wakeup function. In a forked child nothing is touched.
 *
 * \param host the host; not used afterwards
 * \threads exclusive
 */
void rtd_host_free(struct rtd_host *host);

/**
 * The queue of a host's events.
 *
 * \param host the host
 * \return the queue, borrowed from the host: always the same, valid until rtd_host_free(), never freed by itself;
 *   NULL for NULL
 * \threads any
 */
struct rtd_queue *rtd_host_queue(const struct rtd_host *host);

/**
 * Changes a room's document and tells its peers: the operations as one change (all or nothing; outputs as
 * rtd_output_store() makes them, or nbformat JSON), one sync message per peer, then the broadcasts. A broadcast
 * never overtakes the change before it. Each peer gets this when it can take it; a slow one delays nobody.
 *
 * \param host the host
 * \param notebook_id id of the room in UTF-8
 * \param id_len its length in bytes
 * \param ops JSON array as in rtd_doc_edit(); (NULL, 0) for none
 * \param ops_len its length in bytes
 * \param broadcasts JSON array of broadcasts (section 5.8), objects; (NULL, 0) for none
 * \param broadcasts_len its length in bytes
 * \param cause token of a request whose peer must get its response before these broadcasts; 0 for none
 * \return RTD_OK; RTD_E_NOT_FOUND for the room or a cell; RTD_E_ARG; RTD_E_CLOSED; RTD_E_POISONED; RTD_E_UTF8; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_host_publish(const struct rtd_host *host,
                            const char *notebook_id,
                            size_t id_len,
                            const uint8_t *ops,
                            size_t ops_len,
                            const uint8_t *broadcasts,
                            size_t broadcasts_len,
                            uint64_t cause);

/**
 * Sends one broadcast to one peer, behind the changes and broadcasts made before it. For what only a newcomer needs,
 * such as the present state of widgets (comm_sync). A peer of protocol version 1 has no broadcasts: nothing is sent
 * to it.
 *
 * \param host the host
 * \param peer number of the connection, as in RTD_EV_PEER_JOINED
 * \param broadcast the broadcast (section 5.8), a JSON object
 * \param len its length in bytes
 * \return RTD_OK; RTD_E_NOT_FOUND when no such peer is in a room; RTD_E_ARG; RTD_E_CLOSED; RTD_E_POISONED; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_host_send(const struct rtd_host *host,
                         uint64_t peer,
                         const uint8_t *broadcast,
                         size_t len);

/**
 * Tells the state of the pools to all subscribers of it (section 11.2), unless it is what they know. A new
 * subscriber gets the last one announced first; before any was, that the pools are well. A subscriber that
 * does not read gets the newest state when it does, and nothing in between.
 *
 * \param host the host
 * \param state JSON object with the members uv_error and conda_error, each null or a pool error (section 4.2)
 * \param len its length in bytes
 * \return RTD_OK; RTD_E_ARG; RTD_E_CLOSED; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_host_announce_pool_state(const struct rtd_host *host,
                                        const uint8_t *state,
                                        size_t len);

/**
 * Answers a request event, now or later, in any order. Identifiers and the order in which the peer gets its
 * answers are the library's work. Of a peer with 1024 requests without an answer, or more than `peer_limit` bytes of
 * them, everything else waits; if it leaves meanwhile, RTD_EV_PEER_LEFT comes when they are answered.
 *
 * \param host the host
 * \param token token of the event
 * \param json the response, a JSON object
 * \param len its length in bytes
 * \return RTD_OK; RTD_E_NOT_FOUND when it was answered or its peer has gone; RTD_E_ARG; RTD_E_CLOSED; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_host_respond(const struct rtd_host *host,
                            uint64_t token,
                            const uint8_t *json,
                            size_t len);

/**
 * Disconnects one peer.
 *
 * \param host the host
 * \param peer number of the connection
 * \return RTD_OK; RTD_E_NOT_FOUND; RTD_E_CLOSED; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_host_disconnect(const struct rtd_host *host, uint64_t peer);

/**
 * Opens a room and lets the peers in that wait for it. May be called before anybody asks. With a journal, the document is
 * loaded from it and every change is appended to it before anybody gets an acknowledgement.
 *
 * \param host the host
 * \param notebook_id id of the room in UTF-8
 * \param id_len its length in bytes
 * \param journal_path file of the document in UTF-8; NULL: kept in memory only
 * \param path_len its length in bytes
 * \return RTD_OK; RTD_E_STATE when the room is open or in a forked child; RTD_E_CORRUPT when the file cannot be read (it is left as it is);
 *   RTD_E_IO; RTD_E_CLOSED; RTD_E_UTF8; RTD_E_NULL. After a failure the peers go on waiting
 * \threads any
 */
rtd_result rtd_host_open_room(const struct rtd_host *host,
                              const char *notebook_id,
                              size_t id_len,
                              const char *journal_path,
                              size_t path_len);

/**
 * Opens a room like rtd_host_open_room(), but lets nobody in: the peers wait for rtd_host_admit(). What is published
 * meanwhile is there before the first peer sees the document; the notebook of a file, for instance, because a client
 * that finds an empty room may fill it by itself. rtd_host_close_room() gives it up again.
 *
 * \param host the host
 * \param notebook_id id of the room in UTF-8
 * \param id_len its length in bytes
 * \param journal_path file of the document in UTF-8; NULL: kept in memory only
 * \param path_len its length in bytes
 * \return as rtd_host_open_room()
 * \threads any
 */
rtd_result rtd_host_prepare_room(const struct rtd_host *host,
                                 const char *notebook_id,
                                 size_t id_len,
                                 const char *journal_path,
                                 size_t path_len);

/**
 * Lets the peers into a prepared room.
 *
 * \param host the host
 * \param notebook_id id of the room in UTF-8
 * \param len its length in bytes
 * \return RTD_OK; RTD_E_NOT_FOUND when no such room is prepared; RTD_E_STATE in a forked child; RTD_E_CLOSED; RTD_E_UTF8; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_host_admit(const struct rtd_host *host,
                          const char *notebook_id,
                          size_t len);

/**
 * Disconnects the peers that wait for a room which will not be opened.
 *
 * \param host the host
 * \param notebook_id id of the room in UTF-8
 * \param len its length in bytes
 * \return RTD_OK; RTD_E_NOT_FOUND when nobody waits for it; RTD_E_CLOSED; RTD_E_UTF8; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_host_refuse_room(const struct rtd_host *host, const char *notebook_id, size_t len);

/**
 * Closes a room and disconnects its peers. Its journal keeps the document.
 *
 * \param host the host
 * \param notebook_id id of the room in UTF-8
 * \param len its length in bytes
 * \return RTD_OK; RTD_E_NOT_FOUND; RTD_E_CLOSED; RTD_E_UTF8; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_host_close_room(const struct rtd_host *host, const char *notebook_id, size_t len);

/**
 * Closes a room that nobody is in. A peer that comes at this moment is not turned away: it asks for the room anew
 * (RTD_EV_ROOM_WANTED).
 *
 * \param host the host
 * \param notebook_id id of the room in UTF-8
 * \param len its length in bytes
 * \return RTD_OK; RTD_E_AGAIN when somebody is in it; RTD_E_NOT_FOUND; RTD_E_CLOSED; RTD_E_UTF8; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_host_evict_room(const struct rtd_host *host,
                               const char *notebook_id,
                               size_t len);

/**
 * The open rooms, as a JSON array of objects with the members notebook_id and peers.
 *
 * \param host the host
 * \param out receives the JSON; release with rtd_buf_free()
 * \return RTD_OK; RTD_E_STATE in a forked child; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_host_rooms(const struct rtd_host *host, struct rtd_buf *out);

/**
 * Makes a handle for the document of a room: to read it, to change it, to copy it, and to merge a copy. It stands for
 * whatever room of this id is open when it is used.
 *
 * \param host the host
 * \param notebook_id id of the room in UTF-8; it need not be open yet
 * \param len its length in bytes
 * \param out receives the handle, NULL on failure; release with rtd_doc_free(), before or after the host. A call of it
 *   counts as a call of the host
 * \return RTD_OK; RTD_E_UTF8; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_host_doc(const struct rtd_host *host,
                        const char *notebook_id,
                        size_t len,
                        struct rtd_doc **out);

/**
 * Opens the settings (protocol 2, section 11.1) for the peers of the settings channel. Before this their
 * connections are closed. With a journal, the document is loaded from it and every change is appended to it before
 * anybody gets an acknowledgement; a new one has the defaults. Members of older programs are moved to their place.
 *
 * \param host the host
 * \param journal_path file of the document in UTF-8; NULL: kept in memory only
 * \param len its length in bytes
 * \return RTD_OK; RTD_E_STATE when they are open or in a forked child; RTD_E_CORRUPT when the file cannot be read (it
 *   is left as it is); RTD_E_IO; RTD_E_CLOSED; RTD_E_UTF8; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_host_open_settings(const struct rtd_host *host,
                                  const char *journal_path,
                                  size_t len);

/**
 * The settings, as a JSON object: theme, default_runtime, default_python_env, uv.default_packages,
 * conda.default_packages (with their default where nothing usable is set), then what peers added.
 *
 * \param host the host
 * \param out receives the JSON; release with rtd_buf_free()
 * \return RTD_OK; RTD_E_STATE when they are not open or in a forked child; RTD_E_CLOSED; RTD_E_POISONED; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_host_settings(const struct rtd_host *host,
                             struct rtd_buf *out);

/**
 * Changes the settings and tells the peers. Members that are not given, or not different, stay as they are; an
 * object is gone through member by member, a list is replaced as a whole; `$schema` is no setting.
 *
 * \param host the host
 * \param members JSON object as rtd_host_settings() gives it, or part of it
 * \param len its length in bytes
 * \return RTD_OK; RTD_E_ARG when a member has another type than its own (nothing changed then); RTD_E_STATE when
 *   they are not open or in a forked child; RTD_E_CLOSED; RTD_E_POISONED; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_host_change_settings(const struct rtd_host *host,
                                    const uint8_t *members,
                                    size_t len);

/**
 * Makes one frame: length, type byte if any, payload. Write it in one piece.
 *
 * \param type one of `rtd_frame`
 * \param payload the payload without the type byte; (NULL, 0) is empty
 * \param len its length in bytes
 * \param out receives the frame; release with rtd_buf_free()
 * \return RTD_OK; RTD_E_ARG for an unknown type; RTD_E_TOO_BIG over 104857600 bytes with the type byte; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_frame_encode(int32_t type,
                            const uint8_t *payload,
                            size_t len,
                            struct rtd_buf *out);

/**
 * Makes a decoder.
 *
 * \param limit largest length a frame may announce, in bytes (`rtd_frame_limit`)
 * \param out receives the handle, NULL on failure; release with rtd_decoder_free()
 * \return RTD_OK; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_decoder_new(size_t limit, struct rtd_decoder **out);

/**
 * Feeds bytes of the stream, in any portions.
 *
 * \param decoder the decoder
 * \param data the bytes; copied
 * \param len their number
 * \return RTD_OK; RTD_E_NULL
 * \threads any, one call at a time counts: bytes must come in order
 */
rtd_result rtd_decoder_push(const struct rtd_decoder *decoder, const uint8_t *data, size_t len);

/**
 * Takes the next whole frame: its payload, with the type byte in front on a notebook channel.
 *
 * \param decoder the decoder
 * \param out receives the payload; release with rtd_buf_free()
 * \return RTD_OK; RTD_E_AGAIN when more bytes are needed; RTD_E_TOO_BIG when the peer announced more than the limit
 *   (again at every later call); RTD_E_NULL
 * \threads any
 */
rtd_result rtd_decoder_next(const struct rtd_decoder *decoder,
                            struct rtd_buf *out);

/**
 * The stream ended: tells whether it ended between two frames.
 *
 * \param decoder the decoder
 * \return RTD_OK; RTD_E_PROTOCOL inside a frame; RTD_E_TOO_BIG behind a length over the limit; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_decoder_finish(const struct rtd_decoder *decoder);

/**
 * Releases a decoder. NULL is fine.
 *
 * \param decoder the decoder; not used afterwards
 * \threads exclusive
 */
void rtd_decoder_free(struct rtd_decoder *decoder);

/**
 * Checks a JSON message and writes it as the reference would: compact, members in its order,
 * unknown members kept behind them.
 *
 * \param kind one of `rtd_message`
 * \param json the message in UTF-8
 * \param len its length in bytes
 * \param out receives the canonical bytes; release with rtd_buf_free()
 * \return RTD_OK; RTD_E_PROTOCOL when it is no such message; RTD_E_ARG for an unknown kind; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_message_check(int32_t kind,
                             const uint8_t *json,
                             size_t len,
                             struct rtd_buf *out);

/**
 * Makes a standalone document without any content, for joining a room: its structure comes from the peer.
 *
 * \param out receives the handle, NULL on failure; release with rtd_doc_free()
 * \return RTD_OK; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_doc_new(struct rtd_doc **out);

/**
 * Makes the document of a new room, with the structure of section 7.2 and no cells.
 *
 * \param notebook_id its id in UTF-8
 * \param len length of the id in bytes
 * \param out receives the handle, NULL on failure; release with rtd_doc_free()
 * \return RTD_OK; RTD_E_UTF8; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_doc_create(const char *notebook_id, size_t len, struct rtd_doc **out);

/**
 * Loads a saved document.
 *
 * \param data saved bytes, or saved bytes followed by saved changes
 * \param len their number
 * \param out receives the handle, NULL on failure; release with rtd_doc_free()
 * \return RTD_OK; RTD_E_CORRUPT; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_doc_load(const uint8_t *data, size_t len, struct rtd_doc **out);

/**
 * Saves the whole document.
 *
 * \param doc the document
 * \param out receives the bytes; release with rtd_buf_free()
 * \return as rtd_doc_cells()
 * \threads any
 */
rtd_result rtd_doc_save(const struct rtd_doc *doc, struct rtd_buf *out);

/**
 * Saves the changes since some heads. Appended to a document that was saved at these heads, they make a newer one.
 *
 * \param doc the document
 * \param heads change hashes of 32 bytes each, as rtd_doc_heads() gives them; (NULL, 0) means all changes
 * \param len length of `heads` in bytes, a multiple of 32
 * \param out receives the bytes, empty when nothing changed; release with rtd_buf_free()
 * \return as rtd_doc_cells(); RTD_E_ARG when `len` is no multiple of 32
 * \threads any
 */
rtd_result rtd_doc_save_since(const struct rtd_doc *doc,
                              const uint8_t *heads,
                              size_t len,
                              struct rtd_buf *out);

/**
 * The heads: the hashes of the newest changes, 32 bytes each. Equal heads mean equal documents.
 *
 * \param doc the document
 * \param out receives the hashes; release with rtd_buf_free()
 * \return as rtd_doc_cells()
 * \threads any
 */
rtd_result rtd_doc_heads(const struct rtd_doc *doc, struct rtd_buf *out);

/**
 * The cells in document order, as a JSON array of objects with the members id, cell_type, source,
 * execution_count (number or null) and outputs (array of elements for rtd_output_resolve()).
 *
 * \param doc the document
 * \param out receives the JSON; release with rtd_buf_free()
 * \return RTD_OK; RTD_E_STATE (session); RTD_E_NOT_FOUND or RTD_E_CLOSED (room); RTD_E_POISONED; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_doc_cells(const struct rtd_doc *doc,
                         struct rtd_buf *out);

/**
 * One cell, as in rtd_doc_cells().
 *
 * \param doc the document
 * \param cell_id id of the cell in UTF-8
 * \param len its length in bytes
 * \param out receives the JSON object; release with rtd_buf_free()
 * \return as rtd_doc_cells(); RTD_E_NOT_FOUND also when there is no such cell; RTD_E_UTF8
 * \threads any
 */
rtd_result rtd_doc_cell(const struct rtd_doc *doc,
                        const char *cell_id,
                        size_t len,
                        struct rtd_buf *out);

/**
 * The strings of the document's metadata, as a JSON object.
 *
 * \param doc the document
 * \param out receives the JSON; release with rtd_buf_free()
 * \return as rtd_doc_cells()
 * \threads any
 */
rtd_result rtd_doc_metadata(const struct rtd_doc *doc, struct rtd_buf *out);

/**
 * Makes a standalone copy of a document as it was at some heads. Edits of the copy and of the original are concurrent
 * until one is merged into the other with rtd_doc_merge().
 *
 * \param doc the document
 * \param heads change hashes of 32 bytes each, as rtd_doc_heads() gives them; (NULL, 0): as it is now
 * \param len length of `heads` in bytes, a multiple of 32
 * \param out receives the copy, NULL on failure; release with rtd_doc_free()
 * \return as rtd_doc_cells(); RTD_E_NOT_FOUND also for heads that the document never had; RTD_E_ARG
 * \threads any
 */
rtd_result rtd_doc_fork(const struct rtd_doc *doc,
                        const uint8_t *heads,
                        size_t len,
                        struct rtd_doc **out);

/**
 * Merges the changes of another copy of the same document, as if the copy were a peer that was away. Edits of a source
 * merge by character; what was inserted in both is there twice.
 *
 * \param doc the document
 * \param other the other copy, not `doc` itself; it stays as it is
 * \return as rtd_doc_edit(), RTD_OK also when there is nothing new; RTD_E_ARG when `other` is no copy of this document
 * \threads any
 */
rtd_result rtd_doc_merge(const struct rtd_doc *doc,
                         const struct rtd_doc *other);

/**
 * Whether a document has all of these changes.
 *
 * \param doc the document
 * \param heads change hashes of 32 bytes each, as rtd_doc_heads() gives them
 * \param len length of `heads` in bytes, a multiple of 32
 * \param out receives 1 or 0
 * \return as rtd_doc_cells(); RTD_E_ARG
 * \threads any
 */
rtd_result rtd_doc_contains(const struct rtd_doc *doc,
                            const uint8_t *heads,
                            size_t len,
                            int32_t *out);

/**
 * Releases a document that the caller owns: a standalone one, or the handle of a room's document (the room keeps
 * its document). NULL is fine; that of a session is left alone.
 *
 * \param doc the document; not used afterwards
 * \threads exclusive
 */
void rtd_doc_free(struct rtd_doc *doc);

/**
 * Applies operations as one change; if one of them fails, nothing changes. A change of a session's document is sent
 * at once, that of a room's is recorded and sent to its peers. The operations are a JSON array of objects with the
 * member `op`: insert_cell, delete_cell, move_cell, set_source,
 * splice_source, set_cell_type, append_outputs, replace_output, splice_outputs, clear_outputs,
 * set_execution_count, set_metadata. Their members:
 *
 * - insert_cell: cell_id (new), cell_type, source, index (optional; the end when absent or past it)
 * - delete_cell, clear_outputs: cell_id; clearing also takes the execution count away
 * - move_cell: cell_id, index among the cells that remain
 * - set_source: cell_id, source; only what differs is touched
 * - splice_source: cell_id, index, delete, insert; text indices count Unicode code points
 * - set_cell_type: cell_id, cell_type
 * - append_outputs: cell_id, outputs (array of strings: elements of rtd_output_store())
 * - replace_output: cell_id, index, output (string), expect (optional: the string that must be there now)
 * - splice_outputs: cell_id, index, delete, outputs (array of strings), expect (optional: the array of the strings
 *   that must be there now); made for merging stream text: sessions report a splice at the end of the list as
 *   RTD_OUTPUT_JOINED, any other as RTD_EV_CLEARED and the outputs again
 * - set_execution_count: cell_id, execution_count (number or null)
 * - set_metadata: key, value (strings)
 *
 * With "if_present": true an operation on a cell that does not exist is skipped instead of refused.
 *
 * \param doc the document
 * \param ops the JSON array in UTF-8
 * \param len its length in bytes
 * \return RTD_OK; RTD_E_NOT_FOUND for an unknown cell; RTD_E_ARG for a bad operation; RTD_E_STATE or RTD_E_AGAIN
 *   (session); RTD_E_NOT_FOUND (room); RTD_E_CLOSED (both); RTD_E_POISONED; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_doc_edit(const struct rtd_doc *doc,
                        const uint8_t *ops,
                        size_t len);

/**
 * Inserts a cell with its source, as one change.
 *
 * \param doc the document
 * \param cell_type "code", "markdown" or "raw"; any text is stored
 * \param type_len its length in bytes
 * \param source the source in UTF-8
 * \param source_len its length in bytes
 * \param index position in the notebook; negative or past the end: at the end
 * \param cell_id receives the new id, "cell-" and a random UUID; release with rtd_buf_free()
 * \return as rtd_doc_edit(); RTD_E_UTF8
 * \threads any
 */
rtd_result rtd_doc_create_cell(const struct rtd_doc *doc,
                               const char *cell_type,
                               size_t type_len,
                               const char *source,
                               size_t source_len,
                               int64_t index,
                               struct rtd_buf *cell_id);

/**
 * Sets the source of a cell by a minimal edit, so that concurrent edits merge.
 *
 * \param doc the document
 * \param cell_id id of the cell in UTF-8
 * \param id_len its length in bytes
 * \param source the new source in UTF-8
 * \param source_len its length in bytes
 * \return as rtd_doc_edit(); RTD_E_UTF8
 * \threads any
 */
rtd_result rtd_doc_set_source(const struct rtd_doc *doc,
                              const char *cell_id,
                              size_t id_len,
                              const char *source,
                              size_t source_len);

/**
 * Deletes a cell. If it is running, it goes on running.
 *
 * \param doc the document
 * \param cell_id id of the cell in UTF-8
 * \param len its length in bytes
 * \return as rtd_doc_set_source()
 * \threads any
 */
rtd_result rtd_doc_delete_cell(const struct rtd_doc *doc, const char *cell_id, size_t len);

/**
 * Makes the sync state for one connection.
 *
 * \param out receives the handle, NULL on failure; release with rtd_sync_free()
 * \return RTD_OK; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_sync_new(struct rtd_sync **out);

/**
 * Makes the next sync message for the peer.
 *
 * \param sync the sync state of the peer
 * \param doc the document
 * \param out receives the message; release with rtd_buf_free()
 * \return RTD_OK; RTD_E_AGAIN when there is nothing to send now; RTD_E_ARG; RTD_E_POISONED; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_sync_generate(const struct rtd_sync *sync,
                             const struct rtd_doc *doc,
                             struct rtd_buf *out);

/**
 * Applies a sync message of the peer.
 *
 * \param sync the sync state of the peer
 * \param doc the document
 * \param message the message
 * \param len its length in bytes
 * \return RTD_OK; RTD_E_PROTOCOL when it cannot be decoded (the document is unchanged); RTD_E_ARG; RTD_E_POISONED;
 *   RTD_E_NULL
 * \threads any
 */
rtd_result rtd_sync_receive(const struct rtd_sync *sync,
                            const struct rtd_doc *doc,
                            const uint8_t *message,
                            size_t len);

/**
 * Whether both copies are known to be equal: the peer's heads are those of the document, and the peer knows it.
 *
 * \param sync the sync state of the peer
 * \param doc the document
 * \param out receives 1 or 0
 * \return RTD_OK; RTD_E_ARG; RTD_E_POISONED; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_sync_converged(const struct rtd_sync *sync,
                              const struct rtd_doc *doc,
                              int32_t *out);

/**
 * Releases a sync state. NULL is fine.
 *
 * \param sync the sync state; not used afterwards
 * \threads exclusive
 */
void rtd_sync_free(struct rtd_sync *sync);

/**
 * Makes the document's element of an output: its nbformat JSON when it is small (under 8192 bytes),
 * else the hash of a manifest in the blob store (protocol 2, section 8).
 *
 * \param blobs the store
 * \param json one nbformat output, an object, in UTF-8
 * \param len its length in bytes
 * \param out receives the element; release with rtd_buf_free()
 * \return RTD_OK; RTD_E_ARG when it is no JSON object; RTD_E_TOO_BIG; RTD_E_IO; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_output_store(const struct rtd_blobs *blobs,
                            const uint8_t *json,
                            size_t len,
                            struct rtd_buf *out);

/**
 * Makes the nbformat output from a document's element.
 *
 * \param blobs the store; NULL when there is none (then only inline elements resolve)
 * \param element the element: nbformat JSON or the hash of a manifest
 * \param len its length in bytes
 * \param out receives one nbformat output as JSON; release with rtd_buf_free()
 * \return RTD_OK; RTD_E_NOT_FOUND for a missing blob; RTD_E_CORRUPT; RTD_E_IO; RTD_E_UTF8; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_output_resolve(const struct rtd_blobs *blobs,
                              const uint8_t *element,
                              size_t len,
                              struct rtd_buf *out);

/**
 * Opens a blob store, creating the directory with mode 0700 when it is not there.
 *
 * \param dir the directory in UTF-8
 * \param len its length in bytes
 * \param out receives the handle, NULL on failure; release with rtd_blobs_free()
 * \return RTD_OK; RTD_E_IO; RTD_E_UTF8; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_blobs_open(const char *dir, size_t len, struct rtd_blobs **out);

/**
 * Stores bytes; storing the same bytes again changes nothing.
 *
 * \param blobs the store
 * \param data the bytes
 * \param len their number, at most 104857600
 * \param media_type their media type in UTF-8
 * \param mlen its length in bytes
 * \param hash receives the 64 hexadecimal digits; release with rtd_buf_free()
 * \return RTD_OK; RTD_E_TOO_BIG; RTD_E_IO; RTD_E_UTF8; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_blobs_put(const struct rtd_blobs *blobs,
                         const uint8_t *data,
                         size_t len,
                         const char *media_type,
                         size_t mlen,
                         struct rtd_buf *hash);

/**
 * Reads a blob and verifies its hash.
 *
 * \param blobs the store
 * \param hash 64 hexadecimal digits
 * \param len their number
 * \param out receives the bytes; release with rtd_buf_free()
 * \return RTD_OK; RTD_E_NOT_FOUND, also when `hash` is none; RTD_E_CORRUPT when the content does not have this hash; RTD_E_IO;
 *   RTD_E_UTF8; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_blobs_get(const struct rtd_blobs *blobs,
                         const char *hash,
                         size_t len,
                         struct rtd_buf *out);

/**
 * Releases a store handle. NULL is fine; the files stay.
 *
 * \param blobs the store; not used afterwards
 * \threads exclusive
 */
void rtd_blobs_free(struct rtd_blobs *blobs);

/**
 * Makes the client side of a notebook connection; its handshake is in the output at once.
 *
 * \param notebook_id id of the room in UTF-8
 * \param len its length in bytes
 * \param out receives the handle, NULL on failure; release with rtd_conn_free()
 * \return RTD_OK; RTD_E_TOO_BIG; RTD_E_UTF8; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_conn_client(const char *notebook_id, size_t len, struct rtd_conn **out);

/**
 * Makes the server side of a connection of any channel.
 *
 * \param out receives the handle, NULL on failure; release with rtd_conn_free()
 * \return RTD_OK; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_conn_server(struct rtd_conn **out);

/**
 * Feeds bytes of the stream, in any portions.
 *
 * \param conn the connection
 * \param data the bytes; copied
 * \param len their number
 * \return RTD_OK; RTD_E_POISONED; RTD_E_NULL
 * \threads any, one call at a time counts: bytes must come in order
 */
rtd_result rtd_conn_receive(const struct rtd_conn *conn, const uint8_t *data, size_t len);

/**
 * The stream ended: tells whether it ended between two frames. The connection is over.
 *
 * \param conn the connection
 * \return RTD_OK; RTD_E_PROTOCOL inside a frame; RTD_E_TOO_BIG behind a length over the limit; RTD_E_POISONED; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_conn_eof(const struct rtd_conn *conn);

/**
 * Takes the next event. Client side: RTD_EV_READY, RTD_EV_CHANGED, RTD_EV_RESPONSE, RTD_EV_BROADCAST.
 * Server side: RTD_EV_ROOM_WANTED (id: the room; then call rtd_conn_join()), RTD_EV_REQUEST,
 * RTD_EV_ROOM_CHANGED; the handshake of another channel is an RTD_EV_REQUEST with token 0 (payload: the
 * handshake), which is not answered; for the settings call rtd_conn_join() as for a room.
 *
 * \param conn the connection
 * \param doc the document, a standalone one; on the server side NULL until the room is known
 * \param now_ms milliseconds of the caller's clock
 * \param event struct_size set by the caller; receives the event
 * \return RTD_OK; RTD_E_AGAIN when more bytes are needed; RTD_E_PROTOCOL or RTD_E_TOO_BIG when the peer broke the
 *   protocol (again at every later call); RTD_E_ARG; RTD_E_POISONED; RTD_E_VERSION; RTD_E_NULL
 * \threads one consumer at a time
 */
rtd_result rtd_conn_next_event(const struct rtd_conn *conn,
                               const struct rtd_doc *doc,
                               uint64_t now_ms,
                               struct rtd_event *event);

/**
 * Client side: sends a request (protocol 2, section 5.6).
 *
 * \param conn the connection
 * \param token chosen by the caller
 * \param json the request, a JSON object
 * \param len its length in bytes
 * \return RTD_OK; RTD_E_ARG; RTD_E_STATE on the server side; RTD_E_PROTOCOL when the daemon speaks protocol 1;
 *   RTD_E_TOO_BIG; RTD_E_POISONED; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_conn_request(const struct rtd_conn *conn,
                            uint64_t token,
                            const uint8_t *json,
                            size_t len);

/**
 * Server side: the room is known; capabilities and the first sync message are queued.
 *
 * \param conn the connection
 * \param capabilities JSON object whose members join the capabilities frame; (NULL, 0) for none
 * \param len its length in bytes
 * \return RTD_OK; RTD_E_STATE on the client side or before RTD_EV_ROOM_WANTED; RTD_E_ARG; RTD_E_POISONED; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_conn_join(const struct rtd_conn *conn,
                         const uint8_t *capabilities,
                         size_t len);

/**
 * Server side: answers a request event.
 *
 * \param conn the connection
 * \param token token of the event
 * \param json the response, a JSON object
 * \param len its length in bytes
 * \return RTD_OK; RTD_E_NOT_FOUND; RTD_E_ARG; RTD_E_STATE on the client side; RTD_E_POISONED; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_conn_respond(const struct rtd_conn *conn,
                            uint64_t token,
                            const uint8_t *json,
                            size_t len);

/**
 * Server side: queues a broadcast behind the changes made so far.
 *
 * \param conn the connection
 * \param json the broadcast, a JSON object
 * \param len its length in bytes
 * \return RTD_OK; RTD_E_ARG; RTD_E_STATE on the client side; RTD_E_POISONED; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_conn_broadcast(const struct rtd_conn *conn, const uint8_t *json, size_t len);

/**
 * Takes the bytes to send now, changes of the document included. Call after every step: bytes fed and events
 * taken, a request, an answer, a change of the document. On the client side acknowledgements wait for 20
 * milliseconds of quiet; call it once more so long after the last bytes came.
 *
 * \param conn the connection
 * \param doc the document, a standalone one; on the server side NULL until the room is known
 * \param moved 1 when the document was changed here since the last call, else 0
 * \param now_ms milliseconds of the caller's clock
 * \param out receives the bytes, empty when there is nothing to send; release with rtd_buf_free()
 * \return RTD_OK; RTD_E_TOO_BIG when a message does not fit a frame; RTD_E_ARG; RTD_E_POISONED; RTD_E_NULL
 * \threads any
 */
rtd_result rtd_conn_output(const struct rtd_conn *conn,
                           const struct rtd_doc *doc,
                           int32_t moved,
                           uint64_t now_ms,
                           struct rtd_buf *out);

/**
 * Releases a connection. NULL is fine.
 *
 * \param conn the connection; not used afterwards
 * \threads exclusive
 */
void rtd_conn_free(struct rtd_conn *conn);

/* rtd-cdef-end */

#ifdef __cplusplus
}
#endif

#endif /* RUNTIMED_FFI_H */
