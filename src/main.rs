//! The program. All of it is in the library, so that it is compiled once, and not for the program again.

use std::process::ExitCode;

fn main() -> ExitCode {
    loopgate::command_line::run()
}
