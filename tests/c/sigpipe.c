/* Writing to a peer that has gone, with the default action of SIGPIPE: errors, never a signal.
 * argv[1]: a directory for the socket. Prints "ok" and returns 0.
 *
 * So that a write really meets a closed socket, the I/O thread is held inside a wakeup callback (which
 * no program should do) while the peer goes and the write happens. */
#define _POSIX_C_SOURCE 200809L
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "check.h"
#include "runtimed_ffi.h"

static int entered[2], gate[2];
static int armed; /* taken by the I/O thread */

static void hold(void *unused) {
  char byte = 0;
  (void)unused;
  if (__atomic_exchange_n(&armed, 0, __ATOMIC_SEQ_CST)) {
    CHECK(write(entered[1], &byte, 1) == 1 && read(gate[0], &byte, 1) == 1);
  }
}

static void wait_for(rtd_queue *queue, rtd_event *event, int kind) {
  rtd_result rc;
  while ((rc = rtd_queue_next(queue, event)) != RTD_OK || event->kind != kind)
    if (rc != RTD_OK) CHECK(rc == RTD_E_AGAIN && rtd_queue_wait(queue, PATIENCE) == RTD_OK);
}

/* Makes the I/O thread queue an event for the host, and waits until the callback holds it. */
static void stop_io(rtd_host *host, rtd_session *session) {
  rtd_event event = {0};
  char byte;
  event.struct_size = sizeof event;
  __atomic_store_n(&armed, 1, __ATOMIC_SEQ_CST); /* first: from here on, whatever comes to an empty queue is held */
  while (rtd_queue_next(rtd_host_queue(host), &event) == RTD_OK) continue;
  CHECK(rtd_session_request(session, 1, BYTES("{\"action\":\"get_kernel_info\"}"), PATIENCE) == RTD_OK);
  CHECK(read(entered[0], &byte, 1) == 1);
}

static rtd_session *join(const char *path, rtd_event *event) {
  rtd_session *session;
  CHECK(rtd_session_open(TEXT(path), TEXT("n"), NULL, &session) == RTD_OK);
  wait_for(rtd_session_queue(session), event, RTD_EV_READY);
  return session;
}

/* A peer that shakes hands and takes the first bytes of the room, without the driven tier. */
static int raw_peer(const char *path) {
  struct sockaddr_un address;
  rtd_conn *conn;
  rtd_doc *doc;
  rtd_buf hello = {0};
  char buffer[4096];
  int raw = socket(AF_UNIX, SOCK_STREAM, 0);
  memset(&address, 0, sizeof address);
  address.sun_family = AF_UNIX;
  CHECK(strlen(path) < sizeof address.sun_path);
  strcpy(address.sun_path, path);
  CHECK(raw >= 0 && connect(raw, (struct sockaddr *)&address, sizeof address) == 0);
  CHECK(rtd_conn_client(TEXT("n"), &conn) == RTD_OK && rtd_doc_new(&doc) == RTD_OK);
  CHECK(rtd_conn_output(conn, doc, 0, 0, &hello) == RTD_OK);
  CHECK(write(raw, hello.data, hello.len) == (ssize_t)hello.len);
  CHECK(read(raw, buffer, sizeof buffer) > 0);
  rtd_buf_free(&hello);
  rtd_conn_free(conn);
  rtd_doc_free(doc);
  return raw;
}

int main(int argc, char **argv) {
  static const char cell[] = "[{\"op\":\"insert_cell\",\"cell_id\":\"%s\",\"cell_type\":\"code\",\"source\":\"\"}]";
  rtd_host *host;
  rtd_session *session, *other;
  rtd_event event = {0};
  char path[512], ops[256];
  uint64_t peer;
  int raw;

  CHECK(argc == 2 && signal(SIGPIPE, SIG_DFL) != SIG_ERR);
  CHECK(pipe(entered) == 0 && pipe(gate) == 0);
  event.struct_size = sizeof event;
  snprintf(path, sizeof path, "%s/s", argv[1]);
  CHECK(rtd_host_open(TEXT(path), NULL, &host) == RTD_OK);
  CHECK(rtd_host_open_room(host, TEXT("n"), NULL, 0) == RTD_OK);
  session = join(path, &event);
  wait_for(rtd_host_queue(host), &event, RTD_EV_PEER_JOINED);
  peer = event.peer;
  CHECK(rtd_queue_set_wakeup(rtd_host_queue(host), hold, NULL, NULL) == RTD_OK);

  /* A session writes to a daemon that has gone. */
  stop_io(host, session);
  CHECK(rtd_host_disconnect(host, peer) == RTD_OK);
  snprintf(ops, sizeof ops, cell, "a");
  CHECK(rtd_doc_edit(rtd_session_doc(session), BYTES(ops)) == RTD_OK); /* the write failed; reading will show it */
  CHECK(write(gate[1], "", 1) == 1);
  wait_for(rtd_session_queue(session), &event, RTD_EV_CLOSED);
  CHECK(event.code == RTD_E_CLOSED);
  rtd_session_free(session);

  /* A host writes to a peer that has gone. */
  other = join(path, &event);
  raw = raw_peer(path);
  wait_for(rtd_host_queue(host), &event, RTD_EV_PEER_JOINED);
  while (event.number != 2) wait_for(rtd_host_queue(host), &event, RTD_EV_PEER_JOINED);
  peer = event.peer;
  stop_io(host, other);
  CHECK(close(raw) == 0);
  snprintf(ops, sizeof ops, cell, "b");
  CHECK(rtd_host_publish(host, TEXT("n"), BYTES(ops), NULL, 0, 0) == RTD_OK);
  CHECK(write(gate[1], "", 1) == 1);
  wait_for(rtd_host_queue(host), &event, RTD_EV_PEER_LEFT);
  CHECK(event.peer == peer);
  rtd_session_free(other);
  rtd_host_free(host);
  puts("ok");
  return 0;
}
