/* Every kind of function of the ABI once, the wrong ways included. Needs no daemon: it hosts its own
 * room. argv[1]: a directory for the socket and the blobs. Prints "ok" and returns 0. */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtimed_ffi.h"

/* Milliseconds until a test gives up. */
#define PATIENCE 80000

#define CHECK(condition)                                                     \
  do {                                                                       \
    if (!(condition)) {                                                      \
      char text_[256];                                                       \
      size_t len_;                                                           \
      rtd_last_error(text_, sizeof text_, &len_);                            \
      fprintf(stderr, "line %d: %s (last error: %s)\n", __LINE__, #condition, text_); \
      exit(1);                                                               \
    }                                                                        \
  } while (0)

#define TEXT(s) (s), strlen(s)
#define BYTES(s) (const uint8_t *)(s), strlen(s)

static int woken; /* set by the I/O thread */
static int finalized, delivered_done;

static void on_wakeup(void *userdata) { __atomic_store_n((int *)userdata, 1, __ATOMIC_SEQ_CST); }
static void on_final(void *userdata) {
  (void)userdata;
  finalized++;
}
static void on_event(void *userdata, const rtd_event *event) {
  CHECK(*(int *)userdata == 42);
  if (event->kind == RTD_EV_DONE) {
    CHECK(event->token == 8 && event->code == RTD_DONE_OK);
    delivered_done = 1;
  }
}

/* Takes events until one of this kind comes; polls for a session and waits for a host, so that both ways are used. */
static void take_until(rtd_queue *queue, rtd_event *event, int kind, int polls) {
  for (;;) {
    rtd_result rc = rtd_queue_next(queue, event);
    if (rc == RTD_OK && event->kind == kind) return;
    CHECK(rc == RTD_OK || rc == RTD_E_AGAIN);
    if (rc == RTD_E_AGAIN && polls) {
      struct pollfd poll_fd = {rtd_queue_fd(queue), POLLIN, 0};
      CHECK(poll(&poll_fd, 1, PATIENCE) == 1);
    } else if (rc == RTD_E_AGAIN) {
      CHECK(rtd_queue_wait(queue, 20000) == RTD_OK);
    }
  }
}

static void pure(const char *dir) {
  rtd_buf out = {0}, other = {0};
  rtd_decoder *decoder = NULL;
  rtd_doc *one = NULL, *two = NULL;
  rtd_sync *from_one = NULL, *from_two = NULL;
  rtd_blobs *blobs = NULL;
  char path[512], text[8], whole[256];
  size_t len = 0;
  int32_t converged = 0;
  int step;

  CHECK(rtd_abi_version() == ((uint32_t)RTD_ABI_MAJOR << 16 | RTD_ABI_MINOR));
  CHECK(strcmp(rtd_version(), RTD_VERSION) == 0);
  CHECK(rtd_has(TEXT("session")) == 1 && rtd_has(TEXT("telepathy")) == 0 && rtd_has(NULL, 0) == 0);
  CHECK(strcmp(rtd_result_name(RTD_E_IO), "RTD_E_IO") == 0);
  CHECK(strcmp(rtd_result_name(12345), "RTD_E_UNKNOWN") == 0);

  CHECK(rtd_frame_encode(RTD_FRAME_UNTYPED, BYTES("hello"), &out) == RTD_OK);
  CHECK(out.len == 9 && memcmp(out.data, "\0\0\0\5hello", 9) == 0);
  CHECK(rtd_frame_encode(9, BYTES("x"), &other) == RTD_E_ARG);
  CHECK(rtd_frame_encode(0, NULL, 3, &other) == RTD_E_NULL);
  CHECK(rtd_last_error(text, sizeof text, &len) == RTD_OK && len > sizeof text && memcmp(text, "payload", 7) == 0);
  CHECK(rtd_last_error(text, 0, &len) == RTD_OK && len > sizeof text && text[0] == 'p');
  CHECK(rtd_last_error(text, 1, NULL) == RTD_E_NULL && rtd_last_error(NULL, 1, &len) == RTD_E_NULL);
  CHECK(rtd_last_error(whole, sizeof whole, &len) == RTD_OK && strlen(whole) == len);
  memset(whole, 'x', sizeof whole);
  CHECK(rtd_last_error(whole, len, &len) == RTD_OK && memchr(whole, 0, len) == NULL && whole[len] == 'x');
  CHECK(rtd_frame_encode(0, (const uint8_t *)text, SIZE_MAX, &other) == RTD_E_ARG);
  CHECK(rtd_frame_encode(0, NULL, 0, NULL) == RTD_E_NULL);
  CHECK(rtd_decoder_new(RTD_LIMIT_CONTROL, &decoder) == RTD_OK);
  CHECK(rtd_decoder_push(decoder, out.data, 5) == RTD_OK);
  CHECK(rtd_decoder_next(decoder, &other) == RTD_E_AGAIN);
  CHECK(rtd_decoder_finish(decoder) == RTD_E_PROTOCOL);
  CHECK(rtd_decoder_push(decoder, out.data + 5, out.len - 5) == RTD_OK);
  CHECK(rtd_decoder_next(decoder, &other) == RTD_OK && other.len == 5);
  CHECK(rtd_decoder_finish(decoder) == RTD_OK);
  rtd_buf_free(&other);
  rtd_buf_free(&other);
  rtd_buf_free(NULL);
  rtd_buf_free(&out);
  CHECK(rtd_decoder_push(decoder, BYTES("\377\377\377\377")) == RTD_OK);
  CHECK(rtd_decoder_next(decoder, &other) == RTD_E_TOO_BIG);
  CHECK(rtd_decoder_next(decoder, &other) == RTD_E_TOO_BIG);
  rtd_decoder_free(decoder);
  rtd_decoder_free(NULL);

  CHECK(rtd_message_check(RTD_MESSAGE_REQUEST, BYTES("{ \"action\": \"get_kernel_info\" }"), &out) == RTD_OK);
  CHECK(out.len == 28 && memcmp(out.data, "{\"action\":\"get_kernel_info\"}", 28) == 0);
  rtd_buf_free(&out);
  CHECK(rtd_message_check(RTD_MESSAGE_REQUEST, BYTES("{\"action\":\"dance\"}"), &out) == RTD_E_PROTOCOL);
  CHECK(rtd_message_check(77, BYTES("{}"), &out) == RTD_E_ARG);

  CHECK(rtd_doc_create("\xff", 1, &one) == RTD_E_UTF8 && one == NULL);
  CHECK(rtd_doc_create(TEXT("n"), &one) == RTD_OK && rtd_doc_new(&two) == RTD_OK);
  CHECK(rtd_doc_edit(one, BYTES("[{\"op\":\"insert_cell\",\"cell_id\":\"c\",\"cell_type\":\"code\",\"source\":\"1\"}]")) ==
        RTD_OK);
  CHECK(rtd_doc_edit(one, BYTES("[{\"op\":\"delete_cell\",\"cell_id\":\"c\"},{\"op\":\"delete_cell\",\"cell_id\":\"d\"}]")) ==
        RTD_E_NOT_FOUND);
  CHECK(rtd_doc_edit(one, BYTES("[{\"op\":\"paint_cell\"}]")) == RTD_E_ARG);
  CHECK(rtd_sync_new(&from_one) == RTD_OK && rtd_sync_new(&from_two) == RTD_OK);
  for (step = 0; step < 20; step++) {
    if (rtd_sync_generate(from_one, one, &out) == RTD_OK) {
      CHECK(rtd_sync_receive(from_two, two, out.data, out.len) == RTD_OK);
      rtd_buf_free(&out);
    }
    if (rtd_sync_generate(from_two, two, &out) == RTD_OK) {
      CHECK(rtd_sync_receive(from_one, one, out.data, out.len) == RTD_OK);
      rtd_buf_free(&out);
    }
  }
  CHECK(rtd_sync_converged(from_one, one, &converged) == RTD_OK && converged == 1);
  CHECK(rtd_sync_receive(from_one, one, BYTES("nonsense")) == RTD_E_PROTOCOL);
  CHECK(rtd_doc_heads(one, &out) == RTD_OK && rtd_doc_heads(two, &other) == RTD_OK);
  CHECK(out.len == other.len && out.len % 32 == 0 && memcmp(out.data, other.data, out.len) == 0);
  rtd_buf_free(&other);
  CHECK(rtd_doc_save_since(one, out.data, out.len, &other) == RTD_OK && other.len == 0);
  CHECK(rtd_doc_save_since(one, out.data, 31, &other) == RTD_E_ARG);
  rtd_buf_free(&out);
  CHECK(rtd_doc_cells(two, &out) == RTD_OK && out.data[0] == '[');
  rtd_buf_free(&out);
  CHECK(rtd_doc_cell(two, TEXT("c"), &out) == RTD_OK);
  rtd_buf_free(&out);
  CHECK(rtd_doc_cell(two, TEXT("zz"), &out) == RTD_E_NOT_FOUND);
  CHECK(rtd_doc_metadata(two, &out) == RTD_OK);
  rtd_buf_free(&out);
  CHECK(rtd_doc_save(two, &out) == RTD_OK);
  rtd_doc_free(two);
  CHECK(rtd_doc_load(out.data, out.len, &two) == RTD_OK);
  rtd_buf_free(&out);
  rtd_doc_free(two);
  CHECK(rtd_doc_load(BYTES("garbage"), &two) == RTD_E_CORRUPT && two == NULL);
  rtd_sync_free(from_one);
  rtd_sync_free(from_two);
  rtd_doc_free(one);
  rtd_doc_free(NULL);
  rtd_sync_free(NULL);

  snprintf(path, sizeof path, "%s/blobs", dir);
  CHECK(rtd_blobs_open(TEXT(path), &blobs) == RTD_OK);
  CHECK(rtd_blobs_put(blobs, BYTES("hello world"), TEXT("text/plain"), &out) == RTD_OK && out.len == 64);
  CHECK(rtd_blobs_get(blobs, (const char *)out.data, out.len, &other) == RTD_OK && other.len == 11);
  rtd_buf_free(&out);
  rtd_buf_free(&other);
  CHECK(rtd_blobs_get(blobs, TEXT("../../../etc/passwd"), &out) == RTD_E_NOT_FOUND);
  CHECK(rtd_output_store(blobs, BYTES("{\"output_type\":\"stream\",\"name\":\"stdout\",\"text\":\"a\"}"), &out) == RTD_OK);
  CHECK(rtd_output_resolve(NULL, out.data, out.len, &other) == RTD_OK);
  rtd_buf_free(&out);
  rtd_buf_free(&other);
  CHECK(rtd_output_store(blobs, BYTES("[]"), &out) == RTD_E_ARG);
  rtd_blobs_free(blobs);
  rtd_blobs_free(NULL);
}

/* Both ends of a connection without a socket. */
static void sans_io(void) {
  rtd_conn *client = NULL, *server = NULL;
  rtd_doc *copy = NULL, *original = NULL;
  rtd_event event = {0};
  rtd_buf out = {0};
  int ready = 0, answered = 0, step;

  event.struct_size = sizeof event;
  CHECK(rtd_conn_client(TEXT("n"), &client) == RTD_OK && rtd_conn_server(&server) == RTD_OK);
  CHECK(rtd_doc_new(&copy) == RTD_OK && rtd_doc_create(TEXT("n"), &original) == RTD_OK);
  CHECK(rtd_conn_join(client, NULL, 0) == RTD_E_STATE && rtd_conn_join(server, NULL, 0) == RTD_E_STATE);
  for (step = 0; step < 12; step++) {
    CHECK(rtd_conn_output(client, copy, 0, 0, &out) == RTD_OK);
    CHECK(rtd_conn_receive(server, out.data, out.len) == RTD_OK);
    rtd_buf_free(&out);
    if (!step) { /* changes are nothing to speak of before the daemon has said hello */
      CHECK(rtd_conn_output(client, copy, 1, 0, &out) == RTD_OK && out.len == 0);
      rtd_buf_free(&out);
    }
    while (rtd_conn_next_event(server, step ? original : NULL, 0, &event) == RTD_OK) {
      if (event.kind == RTD_EV_ROOM_WANTED) {
        CHECK(rtd_conn_join(server, BYTES("{\"rtd\":1}")) == RTD_OK);
        CHECK(rtd_conn_join(server, BYTES("{\"rtd\":1}")) == RTD_E_STATE);
      }
      if (event.kind == RTD_EV_REQUEST) {
        CHECK(rtd_conn_respond(server, event.token, BYTES("{\"result\":\"ok\"}")) == RTD_OK);
        CHECK(rtd_conn_respond(server, event.token, BYTES("{\"result\":\"ok\"}")) == RTD_E_NOT_FOUND);
      }
    }
    CHECK(rtd_conn_output(server, original, 0, 0, &out) == RTD_OK);
    CHECK(rtd_conn_receive(client, out.data, out.len) == RTD_OK);
    rtd_buf_free(&out);
    while (rtd_conn_next_event(client, copy, 0, &event) == RTD_OK) {
      if (event.kind == RTD_EV_READY) {
        ready = 1;
        CHECK(rtd_conn_request(client, 7, BYTES("{\"action\":\"get_queue_state\"}")) == RTD_OK);
      }
      if (event.kind == RTD_EV_RESPONSE) answered = event.token == 7;
    }
  }
  CHECK(ready && answered);
  CHECK(rtd_conn_receive(server, BYTES("\377\377\377\377")) == RTD_OK);
  CHECK(rtd_conn_next_event(server, original, 0, &event) == RTD_E_TOO_BIG);
  CHECK(rtd_conn_eof(client) == RTD_OK);
  rtd_conn_free(client);
  rtd_conn_free(server);
  rtd_conn_free(NULL);
  rtd_doc_free(copy);
  rtd_doc_free(original);
}

static void driven(const char *dir) {
  static const char done[] =
      "[{\"event\":\"execution_done\",\"cell_id\":\"c\",\"execution_id\":\"e\",\"status\":\"ok\"}]";
  rtd_host *host = NULL, *second = NULL;
  rtd_session *session = NULL, *none = NULL;
  rtd_queue *queue, *host_queue;
  rtd_doc *doc, *room = NULL, *copy = NULL;
  rtd_sync *sync = NULL;
  rtd_session_options options;
  rtd_host_options host_options;
  rtd_event event = {0};
  rtd_buf out = {0};
  char socket[512];
  size_t count, taken;
  int userdata = 42;

  event.struct_size = sizeof event;
  snprintf(socket, sizeof socket, "%s/s", dir);
  CHECK(rtd_session_open(TEXT(socket), TEXT("n"), NULL, &none) == RTD_E_IO && none == NULL);
  rtd_host_options_init(&host_options, sizeof host_options);
  CHECK(host_options.struct_size == sizeof host_options);
  for (count = 0; count < 2; count++) {
    host_options.struct_size = (uint32_t)(count ? sizeof host_options + 8 : 3);
    CHECK(rtd_host_open(TEXT(socket), &host_options, &host) == RTD_E_VERSION && host == NULL);
  }
  CHECK(rtd_host_open(TEXT(socket), NULL, &host) == RTD_OK);
  CHECK(rtd_host_open(TEXT(socket), NULL, &second) == RTD_E_IO && second == NULL);
  host_queue = rtd_host_queue(host);
  CHECK(host_queue && host_queue == rtd_host_queue(host) && rtd_host_queue(NULL) == NULL);
  CHECK(rtd_host_doc(host, TEXT("n"), &room) == RTD_OK);
  CHECK(rtd_doc_cells(room, &out) == RTD_E_NOT_FOUND); /* the room is not open yet */
  rtd_session_options_init(&options, sizeof options);
  CHECK(options.struct_size == sizeof options && options.connect_timeout_ms == 10000);
  options.struct_size = 3;
  CHECK(rtd_session_open(TEXT(socket), TEXT("n"), &options, &none) == RTD_E_VERSION);
  options.struct_size = sizeof options + 8; /* what it ends with is unknown here */
  CHECK(rtd_session_open(TEXT(socket), TEXT("n"), &options, &none) == RTD_E_VERSION && none == NULL);
  rtd_session_options_init(&options, sizeof options);
  options.flags = RTD_SESSION_WATCH_ALL;
  options.connect_timeout_ms = PATIENCE; /* under valgrind on a busy machine ten seconds are little */
  CHECK(rtd_session_open(TEXT(socket), TEXT("n"), &options, &session) == RTD_OK);
  queue = rtd_session_queue(session);
  doc = rtd_session_doc(session);
  CHECK(queue && queue == rtd_session_queue(session) && rtd_session_queue(NULL) == NULL);
  CHECK(doc && doc == rtd_session_doc(session) && rtd_session_doc(NULL) == NULL);
  rtd_doc_free(doc); /* borrowed: left alone */
  CHECK(rtd_queue_set_wakeup(queue, on_wakeup, &woken, on_final) == RTD_OK);
  CHECK(rtd_doc_cells(doc, &out) == RTD_E_STATE && rtd_doc_edit(doc, BYTES("[]")) == RTD_E_STATE);
  take_until(host_queue, &event, RTD_EV_ROOM_WANTED, 0);
  CHECK(rtd_host_refuse_room(host, TEXT("other")) == RTD_E_NOT_FOUND);
  CHECK(rtd_host_open_room(host, event.id, event.id_len, NULL, 0) == RTD_OK);
  CHECK(rtd_host_open_room(host, TEXT("n"), NULL, 0) == RTD_E_STATE);
  take_until(queue, &event, RTD_EV_READY, 1);
  for (count = 0; !__atomic_load_n(&woken, __ATOMIC_SEQ_CST); count++) { /* the callback may still be on its way */
    CHECK(count < 20000);
    poll(NULL, 0, 1);
  }

  CHECK(rtd_doc_create_cell(doc, TEXT("code"), TEXT("1"), -1, &out) == RTD_OK && out.len == 41);
  CHECK(rtd_doc_set_source(doc, (const char *)out.data, out.len, TEXT("1 + 1")) == RTD_OK);
  CHECK(rtd_doc_delete_cell(doc, (const char *)out.data, out.len) == RTD_OK);
  CHECK(rtd_doc_set_source(doc, (const char *)out.data, out.len, TEXT("x")) == RTD_E_NOT_FOUND);
  rtd_buf_free(&out);
  CHECK(rtd_doc_edit(doc, BYTES("[{\"op\":\"insert_cell\",\"cell_id\":\"c\",\"cell_type\":\"code\","
                                        "\"source\":\"1\"}]")) == RTD_OK);
  CHECK(rtd_doc_cell(doc, TEXT("c"), &out) == RTD_OK);
  rtd_buf_free(&out);
  CHECK(rtd_doc_cells(doc, &out) == RTD_OK);
  rtd_buf_free(&out);
  CHECK(rtd_doc_metadata(doc, &out) == RTD_OK);
  rtd_buf_free(&out);
  CHECK(rtd_session_info(session, &out) == RTD_OK);
  rtd_buf_free(&out);
  /* A copy goes its own way and comes back, to the replica as to the room. */
  CHECK(rtd_doc_fork(doc, NULL, 0, &copy) == RTD_OK);
  CHECK(rtd_doc_set_source(copy, TEXT("c"), TEXT("2")) == RTD_OK && rtd_doc_merge(doc, copy) == RTD_OK);
  CHECK(rtd_doc_cell(doc, TEXT("c"), &out) == RTD_OK && memchr(out.data, '2', out.len));
  rtd_buf_free(&out);
  CHECK(rtd_sync_new(&sync) == RTD_OK && rtd_sync_generate(sync, doc, &out) == RTD_E_ARG);
  CHECK(rtd_sync_generate(sync, room, &out) == RTD_E_ARG && rtd_sync_generate(sync, copy, &out) == RTD_OK);
  rtd_buf_free(&out);
  rtd_sync_free(sync);
  CHECK(rtd_session_sync(session, 5, 20000) == RTD_OK);
  take_until(queue, &event, RTD_EV_SYNCED, 1);
  CHECK(event.token == 5 && event.code == RTD_OK);
  CHECK(rtd_session_request(session, 6, BYTES("{\"action\":\"dance\"}"), -1) == RTD_E_ARG);
  CHECK(rtd_session_request(session, 6, BYTES("{\"action\":\"get_kernel_info\"}"), 1) == RTD_OK);
  take_until(queue, &event, RTD_EV_RESPONSE, 1);
  CHECK(event.token == 6 && event.code == RTD_E_TIMEOUT);
  take_until(host_queue, &event, RTD_EV_REQUEST, 0);
  CHECK(rtd_host_respond(host, event.token, BYTES("{\"result\":\"ok\"}")) == RTD_OK);
  CHECK(rtd_host_respond(host, event.token, BYTES("{\"result\":\"ok\"}")) == RTD_E_NOT_FOUND);

  CHECK(rtd_session_execute(session, 8, TEXT("c"), 20000) == RTD_OK);
  take_until(host_queue, &event, RTD_EV_REQUEST, 0);
  CHECK(event.code == RTD_CHANNEL_NOTEBOOK);
  CHECK(rtd_doc_set_source(copy, TEXT("c"), TEXT("33")) == RTD_OK && rtd_doc_merge(room, copy) == RTD_OK);
  CHECK(rtd_doc_merge(copy, room) == RTD_OK); /* nothing new */
  rtd_doc_free(copy);
  CHECK(rtd_doc_cell(room, TEXT("c"), &out) == RTD_OK && memchr(out.data, '3', out.len));
  rtd_buf_free(&out);
  CHECK(rtd_doc_cells(room, &out) == RTD_OK);
  rtd_buf_free(&out);
  CHECK(rtd_doc_metadata(room, &out) == RTD_OK);
  rtd_buf_free(&out);
  CHECK(rtd_host_rooms(host, &out) == RTD_OK);
  rtd_buf_free(&out);
  CHECK(rtd_host_respond(host, event.token,
                         BYTES("{\"result\":\"cell_queued\",\"cell_id\":\"c\",\"execution_id\":\"e\"}")) == RTD_OK);
  CHECK(rtd_host_publish(host, TEXT("n"), BYTES("[{\"op\":\"append_outputs\",\"cell_id\":\"c\",\"outputs\":["
                                                "\"{\\\"output_type\\\":\\\"stream\\\",\\\"text\\\":\\\"hi\\\"}\"]}]"),
                         NULL, 0, 0) == RTD_OK);
  take_until(queue, &event, RTD_EV_OUTPUT, 1);
  CHECK(event.token == 8 && event.number == 0 && event.text_len == 2 && memcmp(event.text, "hi", 2) == 0);
  CHECK(rtd_host_publish(host, TEXT("n"), NULL, 0, BYTES(done), 0) == RTD_OK);
  CHECK(rtd_host_publish(host, TEXT("n"), BYTES("{}"), NULL, 0, 0) == RTD_E_ARG);
  CHECK(rtd_host_publish(host, TEXT("nowhere"), NULL, 0, NULL, 0, 0) == RTD_E_NOT_FOUND);
  while (!delivered_done) {
    rtd_result rc = rtd_queue_wait(queue, 20000);
    CHECK(rc == RTD_OK);
    CHECK(rtd_queue_dispatch(queue, on_event, &userdata, 10, &count) == RTD_OK && count > 0);
  }
  CHECK(rtd_queue_wake(queue) == RTD_OK);
  CHECK(rtd_queue_wait(queue, -1) == RTD_E_AGAIN);
  CHECK(rtd_session_watch(session, 0) == RTD_OK);
  CHECK(rtd_session_sync(session, 9, 20000) == RTD_OK);
  take_until(queue, &event, RTD_EV_SYNCED, 1); /* nothing else is on its way now */
  CHECK(rtd_queue_wait(queue, 0) == RTD_E_TIMEOUT);
  CHECK(rtd_queue_next(queue, &event) == RTD_E_AGAIN);
  CHECK(rtd_queue_dispatch(queue, on_event, &userdata, 10, &count) == RTD_OK && count == 0);
  CHECK(rtd_session_sync(session, 10, 20000) == RTD_OK && rtd_session_sync(session, 11, 20000) == RTD_OK);
  for (taken = 0; taken < 2; taken += count) { /* no more than asked for, and at last no error but nothing */
    CHECK(rtd_queue_wait(queue, 20000) == RTD_OK);
    CHECK(rtd_queue_dispatch(queue, on_event, &userdata, 0, &count) == RTD_OK && count == 0);
    CHECK(rtd_queue_dispatch(queue, on_event, &userdata, 1, &count) == RTD_OK && count == 1);
  }
  CHECK(rtd_queue_dispatch(queue, NULL, &userdata, 1, &count) == RTD_E_NULL);
  CHECK(rtd_queue_dispatch(queue, on_event, &userdata, 1, NULL) == RTD_E_NULL);
  for (count = 0; count < 2; count++) {
    event.struct_size = (uint32_t)(count ? sizeof event + 8 : 1);
    CHECK(rtd_queue_next(queue, &event) == RTD_E_VERSION);
    CHECK(rtd_queue_next(host_queue, &event) == RTD_E_VERSION);
  }
  event.struct_size = sizeof event;
  CHECK(rtd_queue_next(NULL, &event) == RTD_E_NULL && rtd_queue_next(queue, NULL) == RTD_E_NULL);
  CHECK(rtd_queue_fd(NULL) == -1 && rtd_queue_wait(NULL, 0) == RTD_E_NULL && rtd_session_close(NULL) == RTD_E_NULL);

  CHECK(rtd_session_close(session) == RTD_OK && rtd_session_close(session) == RTD_OK);
  CHECK(rtd_queue_dispatch(queue, on_event, &userdata, 10, &count) == RTD_OK && count == 1); /* RTD_EV_CLOSED */
  CHECK(rtd_queue_dispatch(queue, on_event, &userdata, 10, &count) == RTD_E_CLOSED);
  CHECK(rtd_queue_next(queue, &event) == RTD_E_CLOSED);
  CHECK(rtd_queue_wait(queue, -1) == RTD_E_CLOSED);
  CHECK(rtd_session_execute(session, 9, TEXT("c"), -1) == RTD_E_CLOSED);
  CHECK(rtd_doc_edit(doc, BYTES("[]")) == RTD_E_CLOSED && rtd_doc_cells(doc, &out) == RTD_OK);
  rtd_buf_free(&out);
  CHECK(finalized == 0);
  CHECK(rtd_queue_set_wakeup(queue, NULL, NULL, NULL) == RTD_OK && finalized == 1); /* of the one before */
  CHECK(rtd_queue_set_wakeup(queue, NULL, NULL, on_final) == RTD_OK && finalized == 2);
  CHECK(rtd_queue_set_wakeup(queue, on_wakeup, &woken, on_final) == RTD_OK && finalized == 2);
  rtd_session_free(session);
  CHECK(finalized == 3);
  take_until(host_queue, &event, RTD_EV_PEER_LEFT, 0);
  CHECK(rtd_host_disconnect(host, 12345) == RTD_E_NOT_FOUND);
  CHECK(rtd_host_evict_room(host, TEXT("nobody")) == RTD_E_NOT_FOUND);
  CHECK(rtd_host_close_room(host, TEXT("n")) == RTD_OK);
  CHECK(rtd_host_close_room(host, TEXT("n")) == RTD_E_NOT_FOUND);
  CHECK(rtd_host_close(host) == RTD_OK && rtd_host_close(host) == RTD_OK);
  take_until(host_queue, &event, RTD_EV_CLOSED, 0);
  CHECK(rtd_doc_cells(room, &out) == RTD_E_CLOSED);
  rtd_host_free(host);
  CHECK(rtd_doc_cells(room, &out) == RTD_E_CLOSED); /* the handle may outlive the host */
  rtd_doc_free(room);
  rtd_host_free(NULL);
  rtd_session_free(NULL);
}

int main(int argc, char **argv) {
  CHECK(argc == 2);
  pure(argv[1]);
  sans_io();
  driven(argv[1]);
  puts("ok");
  return 0;
}
