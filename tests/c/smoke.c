/* Every kind of function of the driven tier once, the wrong ways included. Needs no daemon: it hosts its own
 * room. argv[1]: a directory for the socket. Prints "ok" and returns 0. */
#include <poll.h>

#include "check.h"
#include "runtimed_ffi.h"

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

static void publish_output(rtd_host *host, const char *cell) {
  char ops[256];
  snprintf(ops, sizeof ops,
           "[{\"op\":\"append_outputs\",\"cell_id\":\"%s\",\"outputs\":["
           "\"{\\\"output_type\\\":\\\"stream\\\",\\\"text\\\":\\\"hi\\\"}\"]}]",
           cell);
  CHECK(rtd_host_publish(host, TEXT("n"), BYTES(ops), NULL, 0, 0) == RTD_OK);
}

/* A host reads nothing more from a peer with more than peer_limit bytes of requests without an answer: what comes after
 * them times out. */
static void unanswered(rtd_host *host, rtd_session *session) {
  enum { PAD = 600000 };
  static char request[PAD + 64] = "{\"action\":\"get_kernel_info\",\"pad\":\"";
  rtd_event event = {0};
  size_t begin = strlen(request);
  uint64_t token;
  event.struct_size = sizeof event;
  memset(request + begin, 'x', PAD);
  strcpy(request + begin + PAD, "\"}");
  for (token = 1001; token <= 1002; token++) {
    CHECK(rtd_session_request(session, token, BYTES(request), 1) == RTD_OK);
    take_until(rtd_session_queue(session), &event, RTD_EV_RESPONSE, 0);
    CHECK(event.token == token && event.code == RTD_E_TIMEOUT);
  }
  CHECK(rtd_session_sync(session, 1003, 20) == RTD_OK);
  take_until(rtd_session_queue(session), &event, RTD_EV_SYNCED, 1);
  CHECK(event.token == 1003 && event.code == RTD_E_TIMEOUT);
  for (token = 1001; token <= 1002; token++) {
    take_until(rtd_host_queue(host), &event, RTD_EV_REQUEST, 0);
    CHECK(rtd_host_respond(host, event.token, BYTES("{\"result\":\"ok\"}")) == RTD_OK);
  }
  CHECK(rtd_session_sync(session, 1004, 20000) == RTD_OK);
  take_until(rtd_session_queue(session), &event, RTD_EV_SYNCED, 1);
  CHECK(event.token == 1004 && event.code == RTD_OK);
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
  char socket[512], first[64];
  rtd_result code;
  size_t count, taken;
  int userdata = 42, answered;

  event.struct_size = sizeof event;
  snprintf(socket, sizeof socket, "%s/s", dir);
  CHECK(rtd_session_open(TEXT(socket), TEXT("n"), NULL, &none) == RTD_E_IO && none == NULL);
  rtd_host_options_init(&host_options, sizeof host_options);
  CHECK(host_options.struct_size == sizeof host_options);
  for (count = 0; count < 2; count++) {
    host_options.struct_size = (uint32_t)(count ? sizeof host_options + 8 : 3);
    CHECK(rtd_host_open(TEXT(socket), &host_options, &host) == RTD_E_VERSION && host == NULL);
  }
  rtd_host_options_init(&host_options, sizeof host_options);
  host_options.peer_limit = 1000000;
  CHECK(rtd_host_open(TEXT(socket), &host_options, &host) == RTD_OK);
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
  CHECK(rtd_doc_create_cell(doc, TEXT("raw"), TEXT("first"), 0, &out) == RTD_OK);
  snprintf(first, sizeof first, "%.*s", (int)out.len, (const char *)out.data);
  rtd_buf_free(&out);
  CHECK(rtd_doc_cells(doc, &out) == RTD_OK && out.len > 50 && memcmp(out.data + 8, first, strlen(first)) == 0);
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

  /* What a request causes comes after its response, although it is published before. */
  CHECK(rtd_session_request(session, 7, BYTES("{\"action\":\"get_kernel_info\"}"), 20000) == RTD_OK);
  take_until(host_queue, &event, RTD_EV_REQUEST, 0);
  CHECK(rtd_host_publish(host, TEXT("n"), NULL, 0, BYTES("[{\"event\":\"kernel_status\",\"status\":\"idle\"}]"),
                         event.token) == RTD_OK);
  CHECK(rtd_host_respond(host, event.token, BYTES("{\"result\":\"ok\"}")) == RTD_OK);
  for (answered = 0; !answered || event.kind != RTD_EV_BROADCAST;) {
    while ((code = rtd_queue_next(queue, &event)) == RTD_E_AGAIN) CHECK(rtd_queue_wait(queue, 20000) == RTD_OK);
    CHECK(code == RTD_OK && (answered || event.kind != RTD_EV_BROADCAST));
    if (event.kind == RTD_EV_RESPONSE) answered = event.token == 7;
  }

  CHECK(rtd_session_execute(session, 12, TEXT("c"), 1) == RTD_OK);
  take_until(queue, &event, RTD_EV_DONE, 1);
  CHECK(event.token == 12 && event.code == RTD_DONE_TIMED_OUT);
  take_until(host_queue, &event, RTD_EV_REQUEST, 0);
  CHECK(rtd_host_respond(host, event.token, BYTES("{\"result\":\"error\",\"error\":\"late\"}")) == RTD_OK);

  /* An output that no call of this session asked for, watched and then not. */
  publish_output(host, first);
  take_until(queue, &event, RTD_EV_OUTPUT, 1);
  CHECK(event.token == 0 && event.id_len == strlen(first) && memcmp(event.id, first, event.id_len) == 0);
  CHECK(rtd_session_watch(session, 0) == RTD_OK);
  publish_output(host, first);
  CHECK(rtd_session_sync(session, 13, 20000) == RTD_OK);
  do {
    while ((code = rtd_queue_next(queue, &event)) == RTD_E_AGAIN) CHECK(rtd_queue_wait(queue, 20000) == RTD_OK);
    CHECK(code == RTD_OK && event.kind != RTD_EV_OUTPUT);
  } while (event.kind != RTD_EV_SYNCED);
  CHECK(rtd_session_watch(session, 1) == RTD_OK);

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

  unanswered(host, session);

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
  CHECK(rtd_host_evict_room(host, TEXT("unknown")) == RTD_E_NOT_FOUND);
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
  driven(argv[1]);
  puts("ok");
  return 0;
}
