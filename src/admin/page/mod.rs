//! The stats page: `page.html` with what is known when it is asked for, and the bundle that keeps it going. The sources of
//! the bundle are beside this file; README.md there says how it is made.

use std::fmt::Write;

use super::haproxy::info::{days, open_files, version};
use super::haproxy::stat::status_of;
use super::people::short;
use super::picture::verdict::verdict;
use super::picture::{Count, Picture, Server};
use crate::config::admin::Identity;

const PAGE: &str = include_str!("page.html");
/// The bundle: committed, so that whoever builds Trunkline needs no node.
pub const SCRIPT: &str = include_str!("dist/page.js");
pub const STYLE: &str = include_str!("dist/page.css");

/// Nothing from anywhere else, and nothing inline: what SIP messages bring can never become a script.
pub const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The page as it is sent.
pub fn render(picture: &Picture, identity: Identity) -> String {
    let title = escaped(&format!("{} · Trunkline", picture.node.name));
    PAGE.replace("{{title}}", &title)
        .replace("{{table}}", &table(picture))
        .replace("{{compat}}", &compat(picture, identity))
}

/// For browsers without scripts: the verdict and every server.
fn table(picture: &Picture) -> String {
    let mut text = format!("<p><strong>{}.</strong></p>\n", escaped(&verdict(picture).text));
    let heads = ["Server", "Region", "Address", "State", "For", "Weight", "Calls", "Calls/s", "Requests", "Failed"];
    text += "<table>\n<thead><tr>";
    for head in heads {
        let _ = write!(text, "<th scope=\"col\">{head}</th>");
    }
    text += "</tr></thead>\n<tbody>\n";
    picture.servers().for_each(|server| row(&mut text, server));
    text + "</tbody>\n</table>\n"
}

fn row(text: &mut String, server: &Server) {
    let why = server.why().map_or_else(String::new, |why| format!(": {why}"));
    let cells = [
        server.region.clone(),
        server.uri(),
        format!("{}{why}", server.state_word()),
        short(server.unchanged.as_secs()),
        server.weight.to_string(),
        server.calls.to_string(),
        format!("{:.1}", server.rates.calls.now),
        server.tally[Count::Requests].to_string(),
        server.tally[Count::Failed].to_string(),
    ];
    let _ = write!(text, "<tr><th scope=\"row\">{}</th>", escaped(&server.full_name()));
    for cell in &cells {
        let _ = write!(text, "<td>{}</td>", escaped(cell));
    }
    let _ = writeln!(text, "</tr><!-- {} -->", escaped(&status_of(server)));
}

/// What scrapers of HAProxy's page look for, word by word.
fn compat(picture: &Picture, identity: Identity) -> String {
    let node = &picture.node;
    let (open, most) = picture.open();
    format!(
        "<p>{} version {}, released {}</p>\n\
         <p><b>pid = </b> {} (process #1, nbproc = 1, nbthread = {})<br>\n\
         <b>uptime = </b> {}<br>\n\
         <b>system limits:</b> memmax = unlimited; ulimit-n = {files}<br>\n\
         <b>maxsock = </b> {files}; <b>maxconn = </b> {most}; <b>maxpipes = </b> 0<br>\n\
         current conns = {open}; current pipes = 0/0; conn rate = {:.0}/sec; bit rate = 0.000 kbps<br>\n\
         Running tasks: 0/{}; idle = 100 %<br></p>\n",
        identity.name(),
        version(identity),
        super::haproxy::info::RELEASED,
        node.pid,
        node.workers,
        days(node.uptime.as_secs()),
        picture.rates.connections.now,
        node.workers,
        files = open_files(),
    )
}

/// Text that can stand in HTML, between tags and in attributes.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            letter => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_text_becomes_a_tag(text in "[a-z<>&\"' ]{0,40}") {
            let out = escaped(&text);
            prop_assert!(!out.contains(['<', '>', '"', '\'']));
            let back = out.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&#39;", "'");
            prop_assert_eq!(back.replace("&amp;", "&"), text);
        }
    }

    #[test]
    fn the_page_has_its_places() {
        for place in ["{{title}}", "{{table}}", "{{compat}}", "/stats/page.js", "/stats/page.css"] {
            assert!(PAGE.contains(place), "{place}");
        }
        assert!(!PAGE.contains("style=") && !PAGE.contains("onclick"), "the policy forbids what is inline");
    }
}
