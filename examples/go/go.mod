module runtimed-ffi.example/runcell

go 1.20
