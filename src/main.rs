//! The program: see the library for what it does.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(colophon::cli::main())
}
