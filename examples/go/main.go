// Runs one cell of a shared notebook and prints its outputs as they come.
//
//	PKG_CONFIG_PATH=$(python -m runtimed_ffi --pkgconfigdir) go build -o run_cell
//	./run_cell SOCKET NOTEBOOK_ID 'print(6 * 7)'
//
// Exit status: 0 the cell ran, 1 it failed, 2 anything else.
package main

/*
#cgo pkg-config: runtimed_ffi
#include <stdlib.h>
#include "runtimed_ffi.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"unsafe"
)

const (
	launch = 1
	run    = 2
)

const launchRequest = `{"action":"launch_kernel","kernel_type":"python","env_source":"uv:prewarmed","notebook_path":null}`

// Event is a copy of an rtd_event: what C lends lives only until the next one is taken.
type Event struct {
	Kind, Code int32
	Number     int64
	Text       string
}

// Session is a client of one room.
type Session struct{ handle *C.rtd_session }

// call runs a function of the library and turns a failure into an error. Its text belongs to the thread, and
// goroutines move between threads.
func call(what string, function func() C.rtd_result) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if function() == C.RTD_OK {
		return nil
	}
	var text [512]C.char
	var length C.size_t
	C.rtd_last_error(&text[0], C.size_t(len(text)), &length)
	return fmt.Errorf("%s: %s", what, C.GoString(&text[0]))
}

// lend gives a string to a call as pointer and length; free it afterwards.
func lend(text string) (*C.char, C.size_t) { return C.CString(text), C.size_t(len(text)) }

func free(pointer *C.char) { C.free(unsafe.Pointer(pointer)) }

// Open connects to the daemon at a socket and begins to join a room.
func Open(socket, notebook string) (*Session, error) {
	path, pathLen := lend(socket)
	defer free(path)
	id, idLen := lend(notebook)
	defer free(id)
	session := new(Session)
	return session, call(socket, func() C.rtd_result {
		return C.rtd_session_open(path, pathLen, id, idLen, nil, &session.handle)
	})
}

// Events is fed by a goroutine, the only one that takes from the queue. While it waits in C, it holds a thread of
// the system and delays no other goroutine. It ends with the session: RTD_EV_CLOSED is the last event.
func (s *Session) Events() <-chan Event {
	events := make(chan Event)
	go func() {
		defer close(events)
		queue := C.rtd_session_queue(s.handle)
		var event C.rtd_event
		event.struct_size = C.uint32_t(unsafe.Sizeof(event))
		for {
			switch C.rtd_queue_next(queue, &event) {
			case C.RTD_OK:
				events <- Event{int32(event.kind), int32(event.code), int64(event.number),
					C.GoStringN(event.text, C.int(event.text_len))}
			case C.RTD_E_AGAIN:
				C.rtd_queue_wait(queue, -1)
			default:
				return
			}
		}
	}()
	return events
}

// Launch asks for a kernel; an RTD_EV_RESPONSE has the result.
func (s *Session) Launch() error {
	request, length := lend(launchRequest)
	defer free(request)
	return call("launch", func() C.rtd_result {
		return C.rtd_session_request(s.handle, launch, (*C.uint8_t)(unsafe.Pointer(request)), length, 120000)
	})
}

// Run adds a cell to the notebook and executes it; an RTD_EV_DONE is the end.
func (s *Session) Run(source string) error {
	kind, kindLen := lend("code")
	defer free(kind)
	text, textLen := lend(source)
	defer free(text)
	var cell C.rtd_buf
	defer C.rtd_buf_free(&cell)
	err := call("create cell", func() C.rtd_result {
		return C.rtd_doc_create_cell(C.rtd_session_doc(s.handle), kind, kindLen, text, textLen, -1, &cell)
	})
	if err != nil {
		return err
	}
	return call("execute", func() C.rtd_result {
		return C.rtd_session_execute(s.handle, run, (*C.char)(unsafe.Pointer(cell.data)), cell.len, 60000)
	})
}

// Close leaves the room, waits for the last event, which ends the goroutine of Events, and frees.
func (s *Session) Close(events <-chan Event) {
	C.rtd_session_close(s.handle)
	for range events {
	}
	C.rtd_session_free(s.handle)
}

func runCell(socket, notebook, code string) (int, error) {
	session, err := Open(socket, notebook)
	if err != nil {
		return 2, err
	}
	events := session.Events()
	defer session.Close(events)
	for event := range events {
		switch event.Kind {
		case C.RTD_EV_READY: // the document is here: ask for a kernel
			err = session.Launch()
		case C.RTD_EV_RESPONSE: // the kernel runs: add a cell and execute it
			if event.Code != C.RTD_OK {
				return 2, errors.New("launch: " + event.Text)
			}
			err = session.Run(code)
		case C.RTD_EV_STARTED:
			fmt.Printf("In [%d]\n", event.Number)
		case C.RTD_EV_OUTPUT:
			fmt.Println(strings.TrimSuffix(event.Text, "\n"))
		case C.RTD_EV_DONE:
			if event.Code == C.RTD_DONE_OK {
				return 0, nil
			}
			status := 2
			if event.Code == C.RTD_DONE_ERROR {
				status = 1
			}
			return status, fmt.Errorf("ended with %d: %s", event.Code, event.Text)
		case C.RTD_EV_CLOSED:
			return 2, errors.New("closed: " + event.Text)
		}
		if err != nil {
			return 2, err
		}
	}
	return 2, errors.New("no more events")
}

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: run_cell SOCKET NOTEBOOK_ID CODE")
		os.Exit(2)
	}
	status, err := runCell(os.Args[1], os.Args[2], os.Args[3])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(status)
}
