/* Runs one cell of a shared notebook and prints its outputs as they come.
 *
 *   cc run_cell.c $(python -m runtimed_ffi --cflags --libs) -o run_cell
 *   ./run_cell SOCKET NOTEBOOK_ID 'print(6 * 7)'
 *
 * Exit status: 0 the cell ran, 1 it failed, 2 anything else. */
#include <stdio.h>
#include <string.h>

#include "runtimed_ffi.h"

enum { LAUNCH = 1, RUN = 2 };

static int fail(const char *what) {
  char text[512];
  size_t len;
  rtd_last_error(text, sizeof text, &len);
  fprintf(stderr, "%s: %s\n", what, text);
  return 2;
}

/* Waits for the next event. The pointers in it live until the next call. */
static int next(rtd_queue *queue, rtd_event *event) {
  rtd_result rc;
  event->struct_size = sizeof *event;
  while ((rc = rtd_queue_next(queue, event)) == RTD_E_AGAIN) {
    rc = rtd_queue_wait(queue, -1);
    if (rc != RTD_OK && rc != RTD_E_AGAIN) return rc;
  }
  return rc;
}

static int run(rtd_session *session, const char *code) {
  static const char launch[] =
      "{\"action\":\"launch_kernel\",\"kernel_type\":\"python\",\"env_source\":\"uv:prewarmed\",\"notebook_path\":null}";
  rtd_queue *queue = rtd_session_queue(session); /* both belong to the session */
  rtd_doc *notebook = rtd_session_doc(session);
  rtd_event event = {0};
  rtd_buf cell = {0};
  rtd_result rc;

  while (next(queue, &event) == RTD_OK) {
    switch (event.kind) {
      case RTD_EV_READY: /* the document is here: ask for a kernel */
        rc = rtd_session_request(session, LAUNCH, (const uint8_t *)launch, strlen(launch), 120000);
        if (rc != RTD_OK) return fail("launch");
        break;
      case RTD_EV_RESPONSE: /* the kernel runs: add a cell and execute it */
        if (event.code != RTD_OK) {
          fprintf(stderr, "launch: %.*s\n", (int)event.text_len, event.text);
          return 2;
        }
        rc = rtd_doc_create_cell(notebook, "code", 4, code, strlen(code), -1, &cell);
        if (rc != RTD_OK) return fail("create cell");
        rc = rtd_session_execute(session, RUN, (const char *)cell.data, cell.len, 60000);
        rtd_buf_free(&cell);
        if (rc != RTD_OK) return fail("execute");
        break;
      case RTD_EV_STARTED:
        printf("In [%d]\n", (int)event.number);
        fflush(stdout);
        break;
      case RTD_EV_OUTPUT:
        fwrite(event.text, 1, event.text_len, stdout);
        if (event.text_len == 0 || event.text[event.text_len - 1] != '\n') putchar('\n');
        fflush(stdout);
        break;
      case RTD_EV_DONE:
        if (event.code == RTD_DONE_OK) return 0;
        fprintf(stderr, "ended with %d: %.*s\n", (int)event.code, (int)event.text_len, event.text);
        return event.code == RTD_DONE_ERROR ? 1 : 2;
      case RTD_EV_CLOSED:
        fprintf(stderr, "closed: %.*s\n", (int)event.text_len, event.text);
        return 2;
    }
  }
  return 2;
}

int main(int argc, char **argv) {
  rtd_session *session;
  int status;
  if (argc != 4) {
    fprintf(stderr, "usage: %s SOCKET NOTEBOOK_ID CODE\n", argv[0]);
    return 2;
  }
  if (rtd_session_open(argv[1], strlen(argv[1]), argv[2], strlen(argv[2]), NULL, &session) != RTD_OK)
    return fail(argv[1]);
  status = run(session, argv[3]);
  rtd_session_free(session);
  return status;
}
