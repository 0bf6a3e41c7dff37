/* After fork() the child cannot use what the parent opened, does it no harm, and can open its own.
 * argv[1]: a directory for the socket. Prints "ok" and returns 0. */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "runtimed_ffi.h"

static char path[512];
static int stop;
static int finalized;

static void on_wakeup(void *unused) { (void)unused; }
static void on_final(void *unused) {
  (void)unused;
  finalized++;
}
static void on_event(void *unused, const rtd_event *event) {
  (void)unused;
  (void)event;
}

static void wait_for(rtd_queue *queue, rtd_event *event, int kind) {
  rtd_result rc;
  while ((rc = rtd_queue_next(queue, event)) != RTD_OK || event->kind != kind)
    if (rc != RTD_OK) CHECK(rc == RTD_E_AGAIN && rtd_queue_wait(queue, PATIENCE) == RTD_OK);
}

static rtd_session *join(void) {
  rtd_session *session;
  rtd_event event = {0};
  event.struct_size = sizeof event;
  CHECK(rtd_session_open(TEXT(path), TEXT("n"), NULL, &session) == RTD_OK);
  wait_for(rtd_session_queue(session), &event, RTD_EV_READY);
  return session;
}

#define REFUSED(call) CHECK((call) == RTD_E_STATE)

/* Every function that takes the handle. */
static void queue_of_parent(rtd_queue *queue) {
  rtd_event event = {0};
  size_t count;
  event.struct_size = sizeof event;
  REFUSED(rtd_queue_next(queue, &event));
  REFUSED(rtd_queue_wait(queue, 0));
  REFUSED(rtd_queue_wake(queue));
  REFUSED(rtd_queue_dispatch(queue, on_event, NULL, 1, &count));
  REFUSED(rtd_queue_set_wakeup(queue, on_wakeup, NULL, on_final));
  REFUSED(rtd_queue_set_wakeup(queue, NULL, NULL, on_final));
  CHECK(rtd_queue_fd(queue) == -1);
}

static void doc_of_parent(rtd_doc *doc) {
  static const uint8_t head[32] = {0};
  rtd_doc *none, *copy;
  rtd_buf out = {0};
  int32_t has;
  REFUSED(rtd_doc_create_cell(doc, TEXT("code"), TEXT(""), -1, &out));
  REFUSED(rtd_doc_set_source(doc, TEXT("c"), TEXT("x")));
  REFUSED(rtd_doc_delete_cell(doc, TEXT("c")));
  REFUSED(rtd_doc_edit(doc, BYTES("[]")));
  REFUSED(rtd_doc_cells(doc, &out));
  REFUSED(rtd_doc_cell(doc, TEXT("c"), &out));
  REFUSED(rtd_doc_metadata(doc, &out));
  REFUSED(rtd_doc_heads(doc, &out));
  REFUSED(rtd_doc_save(doc, &out));
  REFUSED(rtd_doc_save_since(doc, NULL, 0, &out));
  REFUSED(rtd_doc_contains(doc, head, sizeof head, &has));
  REFUSED(rtd_doc_fork(doc, NULL, 0, &none));
  CHECK(none == NULL && rtd_doc_create(TEXT("n"), &copy) == RTD_OK);
  REFUSED(rtd_doc_merge(doc, copy));
  rtd_doc_free(copy);
}

static void session_of_parent(rtd_session *session) {
  rtd_buf out = {0};
  queue_of_parent(rtd_session_queue(session));
  doc_of_parent(rtd_session_doc(session));
  REFUSED(rtd_session_watch(session, 1));
  REFUSED(rtd_session_request(session, 1, BYTES("{\"action\":\"get_kernel_info\"}"), -1));
  REFUSED(rtd_session_execute(session, 1, TEXT("c"), -1));
  REFUSED(rtd_session_sync(session, 1, -1));
  REFUSED(rtd_session_info(session, &out));
  REFUSED(rtd_session_close(session));
}

static void host_of_parent(rtd_host *host) {
  rtd_buf out = {0};
  rtd_doc *doc;
  queue_of_parent(rtd_host_queue(host));
  CHECK(rtd_host_doc(host, TEXT("n"), &doc) == RTD_OK);
  doc_of_parent(doc);
  rtd_doc_free(doc);
  REFUSED(rtd_host_open_room(host, TEXT("m"), NULL, 0));
  REFUSED(rtd_host_refuse_room(host, TEXT("m")));
  REFUSED(rtd_host_close_room(host, TEXT("n")));
  REFUSED(rtd_host_evict_room(host, TEXT("n")));
  REFUSED(rtd_host_publish(host, TEXT("n"), NULL, 0, NULL, 0, 0));
  REFUSED(rtd_host_respond(host, 1, BYTES("{}")));
  REFUSED(rtd_host_rooms(host, &out));
  REFUSED(rtd_host_disconnect(host, 1));
  REFUSED(rtd_host_close(host));
}

static void child(rtd_host *host, rtd_session *session) {
#ifndef __SANITIZE_ADDRESS__
  rtd_event event = {0};
  rtd_session *own;
#endif
  alarm(60); /* a lock inherited in its held state shows as a child that never ends */
  session_of_parent(session);
  host_of_parent(host);
#ifndef __SANITIZE_ADDRESS__ /* its allocator may have been forked with a lock held by the I/O thread */
  event.struct_size = sizeof event;
  own = join();
  CHECK(rtd_doc_edit(rtd_session_doc(own), BYTES("[{\"op\":\"set_metadata\",\"key\":\"child\",\"value\":\"here\"}]")) == RTD_OK);
  CHECK(rtd_session_sync(own, 3, PATIENCE) == RTD_OK);
  wait_for(rtd_session_queue(own), &event, RTD_EV_SYNCED);
  CHECK(event.token == 3 && event.code == RTD_OK);
  rtd_session_free(own);
#endif
  rtd_session_free(session);
  rtd_host_free(host);
  CHECK(finalized == 0);
  _exit(0);
}

/* Holds every lock of the library now and then while the main thread forks. Not with a sanitizer: its
 * allocator has locks that a fork does not mend. */
static void *busy(void *unused) {
#ifdef __SANITIZE_ADDRESS__
  __atomic_store_n(&stop, 1, __ATOMIC_SEQ_CST);
#endif
  while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) rtd_session_free(join());
  return unused;
}

int main(int argc, char **argv) {
  rtd_host *host;
  rtd_session *session;
  rtd_event event = {0};
  rtd_buf out = {0};
  pthread_t thread;
  int round, status;

  CHECK(argc == 2);
  event.struct_size = sizeof event;
  snprintf(path, sizeof path, "%s/s", argv[1]);
  CHECK(rtd_host_open(TEXT(path), NULL, &host) == RTD_OK);
  CHECK(rtd_host_open_room(host, TEXT("n"), NULL, 0) == RTD_OK);
  session = join();
  CHECK(rtd_queue_set_wakeup(rtd_session_queue(session), on_wakeup, NULL, on_final) == RTD_OK);
  CHECK(pthread_create(&thread, NULL, busy, NULL) == 0);
  for (round = 0; round < 20; round++) {
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) child(host, session);
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  }
  __atomic_store_n(&stop, 1, __ATOMIC_SEQ_CST);
  CHECK(pthread_join(thread, NULL) == 0);

  /* The parent goes on: its socket, its room, its session. */
  CHECK(access(path, F_OK) == 0);
  CHECK(rtd_session_sync(session, 2, PATIENCE) == RTD_OK);
  wait_for(rtd_session_queue(session), &event, RTD_EV_SYNCED);
  CHECK(rtd_doc_metadata(rtd_session_doc(session), &out) == RTD_OK);
  CHECK(out.len > 5 && memchr(out.data, 'h', out.len)); /* what a child wrote came through the host */
  rtd_buf_free(&out);
  CHECK(rtd_session_request(session, 7, BYTES("{\"action\":\"get_kernel_info\"}"), PATIENCE) == RTD_OK);
  wait_for(rtd_host_queue(host), &event, RTD_EV_REQUEST);
  CHECK(rtd_host_respond(host, event.token, BYTES("{\"result\":\"ok\"}")) == RTD_OK);
  wait_for(rtd_session_queue(session), &event, RTD_EV_RESPONSE);
  CHECK(event.token == 7 && event.code == RTD_OK);
  rtd_session_free(session);
  CHECK(finalized == 1);
  rtd_host_free(host);
  CHECK(access(path, F_OK) != 0);
  puts("ok");
  return 0;
}
