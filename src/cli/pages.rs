//! What the command line says of itself to others: manual pages, and completions for shells. Both are made from the
//! definition that reads the arguments, so they know every option and none that is gone.

use std::io;
use std::path::Path;

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;

/// Prints the completions of a shell to stdout.
///
/// # Errors
/// Where stdout takes no more.
pub fn complete(mut command: Command, shell: Shell) -> Result<bool, String> {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    let written = io::Write::write_all(&mut io::stdout(), &script);
    written.map(|()| true).map_err(|error| format!("the completions could not be written to stdout: {error}"))
}

/// Writes one page of section 8 for the program and one for each of its commands into a folder that is there.
///
/// # Errors
/// Where the folder is not there, or takes no file.
pub fn write_manual(command: Command, folder: &Path) -> Result<bool, String> {
    let mut command = command.disable_help_subcommand(true);
    // Commands get their whole names by it: `trunkline-load-call`.
    command.build();
    let written = write_page(&command, folder);
    written.map(|()| true).map_err(|error| format!("{}: no manual pages: {error}", folder.display()))
}

fn write_page(command: &Command, folder: &Path) -> io::Result<()> {
    command.get_subcommands().filter(|command| !command.is_hide_set()).try_for_each(|one| write_page(one, folder))?;
    let page = Man::new(command.clone()).section("8").manual("Trunkline").source(version());
    page.generate_to(folder).map(drop)
}

/// On every page, so that nobody reads those of another version without seeing it.
fn version() -> String {
    format!("trunkline {}", env!("CARGO_PKG_VERSION"))
}
