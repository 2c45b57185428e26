//! The program: arguments in, exit code out.
//!
//! What a crowd of clients needs is many small pieces of memory from many threads at once, and all of it is
//! given back when the crowd leaves. The allocator of the C library keeps a heap for every few threads and a
//! store for each; crowd after crowd, every one of these heaps grows to what was ever needed in it, and none
//! gets shorter. So there is another: one heap for all threads, which grows no further with the second crowd
//! and gives back its end. It has one lock, so what is done for every request does better without it: buffers
//! are used again, by the thread and by the connection.

use std::process::ExitCode;

use dlmalloc::GlobalDlmalloc;

#[global_allocator]
static ALLOCATOR: GlobalDlmalloc = GlobalDlmalloc;

fn main() -> ExitCode {
    http_proxy_lb::cli::run(std::env::args_os())
}
