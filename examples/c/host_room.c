/* Hosts notebooks: every cell "runs" by having its length in bytes printed.
 *
 *   cc host_room.c $(python -m runtimed_ffi --cflags --libs) -o host_room
 *   ./host_room SOCKET
 *
 * Ends when the last peer of a room leaves. Real hosts parse the requests; this one looks for what it
 * needs, because JSON is not its subject. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtimed_ffi.h"

/* The value of a string member of a compact JSON object, without escapes. */
static int member(const rtd_event *event, const char *name, char *value, size_t cap) {
  char needle[64];
  const char *json = (const char *)event->payload, *end = json + event->payload_len, *at;
  size_t len = (size_t)snprintf(needle, sizeof needle, "\"%s\":\"", name);
  for (at = json; at + len < end; at++) {
    if (memcmp(at, needle, len) == 0) {
      const char *stop = (const char *)memchr(at + len, '"', (size_t)(end - at) - len);
      size_t count = stop ? (size_t)(stop - at) - len : cap;
      if (count >= cap) return 0;
      memcpy(value, at + len, count);
      value[count] = 0;
      return 1;
    }
  }
  return 0;
}

static void respond(rtd_host *host, uint64_t token, const char *json) {
  /* NOT_FOUND only says that the peer has gone. */
  (void)rtd_host_respond(host, token, (const uint8_t *)json, strlen(json));
}

static void publish(rtd_host *host, const char *room, const char *ops, const char *broadcasts) {
  rtd_host_publish(host, room, strlen(room), (const uint8_t *)ops, strlen(ops), (const uint8_t *)broadcasts,
                   strlen(broadcasts), 0);
}

/* The length of a cell's JSON; 0 when there is no such cell. */
static size_t cell_length(rtd_host *host, const char *room, const char *cell) {
  rtd_doc *notebook;
  rtd_buf found = {0};
  size_t len = 0;
  if (rtd_host_doc(host, room, strlen(room), &notebook) != RTD_OK) return 0;
  if (rtd_doc_cell(notebook, cell, strlen(cell), &found) == RTD_OK) len = found.len;
  rtd_buf_free(&found);
  rtd_doc_free(notebook);
  return len;
}

static void execute(rtd_host *host, const rtd_event *event, const char *cell) {
  char room[256], json[1024], ops[1024];
  static int count;
  size_t len;
  snprintf(room, sizeof room, "%.*s", (int)event->id_len, event->id);
  len = cell_length(host, room, cell);
  if (len == 0) {
    snprintf(json, sizeof json, "{\"result\":\"error\",\"error\":\"Cell not found in document: %s\"}", cell);
    respond(host, event->token, json);
    return;
  }
  count++;
  snprintf(json, sizeof json, "{\"result\":\"cell_queued\",\"cell_id\":\"%s\",\"execution_id\":\"run-%d\"}", cell, count);
  respond(host, event->token, json);
  snprintf(ops, sizeof ops,
           "[{\"op\":\"clear_outputs\",\"cell_id\":\"%s\"},{\"op\":\"set_execution_count\",\"cell_id\":\"%s\","
           "\"execution_count\":%d},{\"op\":\"append_outputs\",\"cell_id\":\"%s\",\"outputs\":["
           "\"{\\\"output_type\\\":\\\"stream\\\",\\\"name\\\":\\\"stdout\\\",\\\"text\\\":\\\"%d bytes\\\\n\\\"}\"]}]",
           cell, cell, count, cell, (int)len);
  snprintf(json, sizeof json,
           "[{\"event\":\"execution_started\",\"cell_id\":\"%s\",\"execution_count\":%d,\"execution_id\":\"run-%d\"},"
           "{\"event\":\"execution_done\",\"cell_id\":\"%s\",\"execution_id\":\"run-%d\",\"status\":\"ok\"}]",
           cell, count, count, cell, count);
  publish(host, room, ops, json);
}

int main(int argc, char **argv) {
  rtd_host *host;
  rtd_queue *queue;
  rtd_event event = {0};
  rtd_result rc;
  if (argc != 2 || rtd_host_open(argv[1], strlen(argv[1]), NULL, &host) != RTD_OK) {
    char text[512] = "usage: host_room SOCKET";
    size_t len;
    if (argc == 2) rtd_last_error(text, sizeof text, &len);
    fprintf(stderr, "%s\n", text);
    return 2;
  }
  printf("hosting\n");
  fflush(stdout);
  queue = rtd_host_queue(host);
  event.struct_size = sizeof event;
  for (;;) {
    char action[64] = "", cell[128] = "";
    rc = rtd_queue_next(queue, &event);
    if (rc == RTD_E_AGAIN) {
      rtd_queue_wait(queue, -1);
      continue;
    }
    if (rc != RTD_OK || event.kind == RTD_EV_CLOSED) break;
    if (event.kind == RTD_EV_ROOM_WANTED) rtd_host_open_room(host, event.id, event.id_len, NULL, 0);
    if (event.kind == RTD_EV_PEER_LEFT && event.number == 0) rtd_host_close(host);
    if (event.kind == RTD_EV_REQUEST) {
      member(&event, "action", action, sizeof action);
      if (strcmp(action, "launch_kernel") == 0)
        respond(host, event.token, "{\"result\":\"kernel_launched\",\"kernel_type\":\"python\",\"env_source\":\"c\"}");
      else if (strcmp(action, "execute_cell") == 0 && member(&event, "cell_id", cell, sizeof cell))
        execute(host, &event, cell);
      else
        respond(host, event.token, "{\"result\":\"error\",\"error\":\"not supported by this host\"}");
    }
  }
  rtd_host_free(host);
  return 0;
}
