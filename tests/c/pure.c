/* Every kind of function of the pure tier once, the wrong ways included.
 * argv[1]: a directory for the blobs. Prints "ok" and returns 0. */
#include "check.h"
#include "runtimed_ffi.h"

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

int main(int argc, char **argv) {
  CHECK(argc == 2);
  pure(argv[1]);
  sans_io();
  puts("ok");
  return 0;
}
