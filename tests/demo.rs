//! The demo, as somebody who has just cloned the project sees it.

mod support;

use std::process::Command;

use support::process::{output, program};

/// Exit code and what was said.
fn demo(arguments: &[&str]) -> (Option<i32>, String) {
    let output = output(Command::new(program()).arg("demo").args(arguments));
    assert!(output.stdout.is_empty(), "what is for people goes to stderr");
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// The number in front of a word of the summary's rows.
fn row(said: &str, name: &str) -> u64 {
    let summary = said.rsplit("\n\n").next().unwrap();
    let line = summary.lines().find(|line| line.trim_start().starts_with(name)).unwrap_or_else(|| panic!("{said}"));
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_region_dies_and_comes_back_and_no_call_is_lost() {
    // On a busy machine it takes a second until somebody is missed.
    let script = "500ms kill lagos, 2s revive lagos";
    let (code, said) = demo(&["--for", "6s", "--rate", "500", "--script", script]);
    assert_eq!(code, Some(0), "{said}");
    for line in ["lagos killed", "lagos revived", "lagos-2 is dead", "lagos-2 is up", "ok: no call was lost\n"] {
        assert!(said.contains(line), "no `{line}` in\n{said}");
    }
    assert_eq!((row(&said, "answered"), row(&said, "lost"), row(&said, "refused")), (3000, 0, 0), "{said}");
    assert!(row(&said, "lagos") > row(&said, "abuja"), "{said}");
}

/// The verdict can be no: with every region dead there is nobody who could take a call.
#[test]
fn calls_that_nobody_could_take_fail_the_demo() {
    let killed = "300ms kill lagos, 300ms kill abuja, 300ms kill asaba";
    let revived = "3500ms revive lagos, 3500ms revive abuja, 3500ms revive asaba";
    let (code, said) = demo(&["--for", "4s", "--rate", "200", "--script", &format!("{killed}, {revived}")]);
    assert_eq!(code, Some(1), "{said}");
    assert!(row(&said, "refused") > 0 && said.contains("FAILED: calls were lost"), "{said}");
}

#[test]
fn a_script_that_cannot_be_read_is_explained() {
    let (code, said) = demo(&["--script", "3s kill kano"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("the regions are lagos, abuja, asaba"), "{said}");
}
