//! The manual pages and completions, made of the table that reads the command line.

use std::io;

use clap_mangen::Man as Page;

use crate::args::{self, Completions, Man};
use crate::exit_code;
use crate::message::{escaped, report};
use crate::print;

/// Prints the completions of a shell. Returns the exit code.
pub(crate) fn completions(completions: &Completions) -> u8 {
    let mut text = Vec::new();
    clap_complete::generate(completions.shell, &mut args::table(), "dlock", &mut text);
    print(&text)
}

/// Prints a manual page. Returns the exit code.
pub(crate) fn man(man: &Man) -> u8 {
    let mut table = args::table().disable_help_subcommand(true);
    // Gives each verb its full name, such as dlock-run.
    table.build();
    let page = match &man.verb {
        None => table,
        Some(verb) => match table.find_subcommand(verb) {
            Some(table) => table.clone(),
            None => {
                let verb = escaped(verb);
                report(format_args!(
                    "there is no subcommand `{verb}`; see `dlock --help`"
                ));
                return exit_code::USAGE;
            }
        },
    };
    match rendered(page) {
        Ok(text) => print(&text),
        Err(error) => {
            report(format_args!("cannot make the page: {error}"));
            exit_code::SYSTEM
        }
    }
}

fn rendered(table: clap::Command) -> io::Result<Vec<u8>> {
    let name = table.get_display_name().unwrap_or("dlock").to_owned();
    let mut text = Vec::new();
    Page::new(table)
        .title(name.to_uppercase())
        // The foot of the page; a verb has no version of its own.
        .source(concat!("dlock ", env!("CARGO_PKG_VERSION")))
        .render(&mut text)?;
    Ok(text)
}
