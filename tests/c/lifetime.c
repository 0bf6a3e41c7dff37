/* A plugin's life: load the library, host a room and join it, unload the library; all of it twice.
 * argv[1]: the library, argv[2]: a directory for the socket. Prints "ok" and returns 0.
 *
 * The work is done on a thread that ends before the library goes: the C library keeps a shared object
 * in memory for as long as a thread lives that has something of it to tear down. */
#define _POSIX_C_SOURCE 200809L
#include <dlfcn.h>
#include <pthread.h>
#include <unistd.h>

#include "check.h"
#include "runtimed_ffi.h"

static struct {
  void (*host_options_init)(rtd_host_options *, size_t);
  rtd_result (*host_open)(const char *, size_t, const rtd_host_options *, rtd_host **);
  rtd_result (*host_open_room)(const rtd_host *, const char *, size_t, const char *, size_t);
  rtd_queue *(*host_queue)(const rtd_host *);
  rtd_result (*host_respond)(const rtd_host *, uint64_t, const uint8_t *, size_t);
  void (*host_free)(rtd_host *);
  void (*session_options_init)(rtd_session_options *, size_t);
  rtd_result (*session_open)(const char *, size_t, const char *, size_t, const rtd_session_options *, rtd_session **);
  rtd_queue *(*session_queue)(const rtd_session *);
  rtd_doc *(*session_doc)(const rtd_session *);
  rtd_result (*session_request)(const rtd_session *, uint64_t, const uint8_t *, size_t, int64_t);
  void (*session_free)(rtd_session *);
  rtd_result (*queue_next)(const rtd_queue *, rtd_event *);
  rtd_result (*queue_wait)(const rtd_queue *, int64_t);
  rtd_result (*doc_create_cell)(const rtd_doc *, const char *, size_t, const char *, size_t, int64_t, rtd_buf *);
  rtd_result (*last_error)(char *, size_t, size_t *);
  void (*buf_free)(rtd_buf *);
} api;

static char path[512];

static void find(void *library, const char *name, void *function) {
  void *symbol = dlsym(library, name);
  CHECK(symbol);
  memcpy(function, &symbol, sizeof symbol); /* C has no cast from a pointer to a function pointer */
}

static void wait_for(rtd_queue *queue, rtd_event *event, int kind) {
  rtd_result rc;
  while ((rc = api.queue_next(queue, event)) != RTD_OK || event->kind != kind)
    if (rc != RTD_OK) CHECK(rc == RTD_E_AGAIN && api.queue_wait(queue, PATIENCE) == RTD_OK);
}

static void *use(void *unused) {
  rtd_host *host;
  rtd_session *session;
  rtd_host_options host_options;
  rtd_session_options session_options;
  rtd_event event = {0};
  rtd_buf cell = {0};
  size_t len;
  api.host_options_init(&host_options, sizeof host_options);
  api.session_options_init(&session_options, sizeof session_options);
  /* under valgrind on a busy machine ten seconds are little */
  host_options.handshake_timeout_ms = session_options.connect_timeout_ms = PATIENCE;
  event.struct_size = sizeof event;
  CHECK(api.session_open(TEXT(path), TEXT("n"), NULL, &session) == RTD_E_IO);
  CHECK(api.last_error(NULL, 0, &len) == RTD_OK && len > 0);
  CHECK(api.host_open(TEXT(path), &host_options, &host) == RTD_OK);
  CHECK(api.session_open(TEXT(path), TEXT("n"), &session_options, &session) == RTD_OK);
  wait_for(api.host_queue(host), &event, RTD_EV_ROOM_WANTED);
  CHECK(api.host_open_room(host, event.id, event.id_len, NULL, 0) == RTD_OK);
  wait_for(api.session_queue(session), &event, RTD_EV_READY);
  CHECK(api.doc_create_cell(api.session_doc(session), TEXT("code"), TEXT("1"), -1, &cell) == RTD_OK);
  api.buf_free(&cell);
  CHECK(api.session_request(session, 1, BYTES("{\"action\":\"get_kernel_info\"}"), PATIENCE) == RTD_OK);
  wait_for(api.host_queue(host), &event, RTD_EV_REQUEST);
  CHECK(api.host_respond(host, event.token, BYTES("{\"result\":\"ok\"}")) == RTD_OK);
  wait_for(api.session_queue(session), &event, RTD_EV_RESPONSE);
  CHECK(event.token == 1 && event.code == RTD_OK);
  api.session_free(session); /* with events of both still waiting */
  api.host_free(host);
  return unused;
}

int main(int argc, char **argv) {
  int round;
  CHECK(argc == 3);
  snprintf(path, sizeof path, "%s/s", argv[2]);
  for (round = 0; round < 2; round++) {
    pthread_t thread;
    void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (!library) fprintf(stderr, "%s\n", dlerror());
    CHECK(library);
    find(library, "rtd_host_options_init", &api.host_options_init);
    find(library, "rtd_host_open", &api.host_open);
    find(library, "rtd_host_open_room", &api.host_open_room);
    find(library, "rtd_host_queue", &api.host_queue);
    find(library, "rtd_host_respond", &api.host_respond);
    find(library, "rtd_host_free", &api.host_free);
    find(library, "rtd_session_options_init", &api.session_options_init);
    find(library, "rtd_session_open", &api.session_open);
    find(library, "rtd_session_queue", &api.session_queue);
    find(library, "rtd_session_doc", &api.session_doc);
    find(library, "rtd_session_request", &api.session_request);
    find(library, "rtd_session_free", &api.session_free);
    find(library, "rtd_queue_next", &api.queue_next);
    find(library, "rtd_queue_wait", &api.queue_wait);
    find(library, "rtd_doc_create_cell", &api.doc_create_cell);
    find(library, "rtd_last_error", &api.last_error);
    find(library, "rtd_buf_free", &api.buf_free);
    CHECK(pthread_create(&thread, NULL, use, NULL) == 0 && pthread_join(thread, NULL) == 0);
    CHECK(dlclose(library) == 0);
    CHECK(dlopen(argv[1], RTLD_NOW | RTLD_NOLOAD) == NULL); /* it is really gone */
  }
  puts("ok");
  return 0;
}
