//! Tests: what people get wrong in a configuration file, and the answers they get, letter by letter.

use std::ffi::OsString;
use std::path::Path;

use crate::config::checked::Config;
use crate::config::findings::ConfigErrors;
use crate::config::overrides::Overrides;
use crate::config::root;
use crate::config::root::Given;
use crate::config::secret::Files;

/// What the environment of the tests holds.
fn environment(name: &str) -> Option<OsString> {
    let value = match name {
        "HOST" => "p.test",
        "PORT" => "3128",
        "COUNT" => "8",
        "TIME" => "2.5",
        "OFF" => "false",
        "WORD" => "best",
        "EMPTY" => "",
        "SECRET" => "hunter2: # 'x'",
        "TOKEN" => "hunter2-hunter2-hunter2",
        "YAML" => "a1\nvia: false\nmode: best",
        _ => return None,
    };
    Some(value.into())
}

fn read(text: &str) -> Result<Config, ConfigErrors> {
    let given = Given {
        path: Path::new("c.yaml"),
        text,
        mode: None,
        is_mounted: false,
        overrides: &Overrides::default(),
        environment: &environment,
    };
    root::check(&given, &mut Files::beside(given.path))
}

/// All messages about a file, whether it can be used or not.
fn said(text: &str) -> Vec<String> {
    let notices = match read(text) {
        Ok(config) => config.warnings,
        Err(errors) => errors.errors,
    };
    notices.iter().map(ToString::to_string).collect()
}

/// Behind the lines that every file has, so that the first line of `text` is the third.
fn check(text: &str, wanted: &[&str]) {
    let text = format!("listen: 127.0.0.1:1\nupstream: [{{url: 'http://a.test'}}]\n{text}");
    assert_eq!(said(&text), wanted, "{text}");
}

/// The whole file.
fn check_file(text: &str, wanted: &str) {
    assert_eq!(said(text).join("\n"), wanted, "{text:?}");
}

/// A pool of which the first line of `text` is the fifth line of the file.
fn check_upstream(text: &str, wanted: &[&str]) {
    let text = format!("listen: 127.0.0.1:1\nupstream:\n- url: http://a.test\n\n{text}");
    assert_eq!(said(&text), wanted, "{text}");
}

#[test]
fn a_key_in_the_wrong_column_is_told_which_column_is_meant() {
    let rule = "keys of one block begin in the same column";
    let blanks = [
        (
            "limits:\n  workers: 4\n   queue: 5\n",
            5,
            "`queue` is indented by 3 blanks, `workers` on line 4 by 2 blanks",
        ),
        (
            "limits:\n  workers: 4\n queue: 5\n",
            5,
            "`queue` is indented by 1 blank, `workers` on line 4 by 2 blanks",
        ),
        (
            "mode: best\n via: true\n",
            4,
            "`via` is indented by 1 blank, `mode` on line 3 not at all",
        ),
        (
            "access:\n  users:\n  - username: a\n    password: b\n   allow: [::1]\n",
            7,
            "`allow` is indented by 3 blanks, `password` on line 6 by 4 blanks",
        ),
        (
            "limits: # all\n  workers: 4\n\n  # more\n   queue:\n",
            7,
            "`queue` is indented by 3 blanks, `workers` on line 4 by 2 blanks",
        ),
        (
            "limits:\n  sesame: 4\n   sesame2: 5\n",
            5,
            "what stands is indented by 3 blanks, what stands on line 4 by 2 blanks",
        ),
    ];
    for (text, line, said) in blanks {
        check(text, &[&format!("c.yaml:{line}: {said}: {rule}")]);
    }
    let rule = "the elements of one list begin in the same column";
    for (text, by) in [
        ("   - url: http://b.test\n", "by 3 blanks"),
        (" - url: http://b.test\n", "by 1 blank"),
    ] {
        check_file(
            &format!("listen: a:1\nupstream:\n  - url: http://a.test\n{text}"),
            &format!("c.yaml:4: this `-` is indented {by}, the one on line 3 by 2 blanks: {rule}"),
        );
    }
}

#[test]
fn a_blank_before_the_first_key_is_told() {
    for (text, by) in [
        ("  listen: a:1\nvia: true\n", "not at all"),
        ("---\n  listen: a:1\n via: true\n", "by 1 blank"),
    ] {
        let line = 1 + text.matches("---").count();
        let next = line + 1;
        check_file(
            text,
            &format!(
                "c.yaml:{line}: `listen` is indented by 2 blanks, `via` on line {next} {by}: begin all keys \
                 of the file in its first column"
            ),
        );
    }
    assert_eq!(
        said("  listen: 127.0.0.1:1\n  upstream: [{url: 'http://a.test'}]\n"),
        [""; 0]
    );
}

#[test]
fn a_block_that_is_not_indented_is_told_with_its_keys() {
    check(
        "limits:\nworkers: 4\n",
        &[
            "c.yaml:4: workers: unknown key, ignored; did you mean `limits.workers`? It stands in the block \
           `limits`, indented below `limits:`",
        ],
    );
}

#[test]
fn tabs_are_told() {
    check(
        "limits:\n\tworkers: 4\n",
        &["c.yaml:4: a tab stands before `workers`: indent with blanks"],
    );
    check(
        "limits:\n  workers: 4\n\tqueue: 4\n",
        &["c.yaml:5: a tab stands before `queue`: indent with blanks"],
    );
    check_file(
        "upstream:\n-\turl: x\n",
        "c.yaml:2: a tab stands before `url`: indent with blanks",
    );
    check(
        "via: true\n\t\n",
        &["c.yaml:4: a tab stands in the indentation: indent with blanks"],
    );
    check("via:\ttrue\n", &[]);
}

#[test]
fn a_second_document_is_told_with_its_line() {
    let rule = "ends the configuration, and more stands below it: a file holds one, so remove this line, or \
                the part that is not meant";
    check("---\nvia: true\n", &[&format!("c.yaml:3: `---` {rule}")]);
    check(
        "# x\n--- # more\n  z\n a: b\n",
        &[&format!("c.yaml:4: `---` {rule}")],
    );
    check("...\nvia: true\n", &[&format!("c.yaml:3: `...` {rule}")]);
    check_file(
        "# first\n---\nlisten: a:1\n---\n",
        &format!("c.yaml:4: `---` {rule}"),
    );
    check_file(
        "[http]\nlisten=1\n",
        "c.yaml: what stands in it is more than one document: write `key: value` lines, and nothing else",
    );
    assert_eq!(
        said("---\nlisten: 127.0.0.1:1\nupstream: [{url: 'http://a.test'}]\n...\n"),
        [""; 0]
    );
}

#[test]
fn tags_are_told_wherever_they_stand() {
    let tag = "a word behind a `!` is a tag of YAML, and none is known here (no file is included): write the \
               value itself, or `${NAME}` for one of the environment; a text that begins with ! in 'quotes'";
    check(
        "admin_token: !env sesame\n",
        &[&format!("c.yaml:3: admin_token: {tag}")],
    );
    check(
        "admin_token: !sesame\n",
        &[&format!("c.yaml:3: admin_token: {tag}")],
    );
    check("mode: !x best\n", &[&format!("c.yaml:3: mode: {tag}")]);
    check(
        "limits:\n  workers: !x 4\n  queue_timeout_secs: !x 5\n",
        &[
            &format!("c.yaml:4: limits.workers: {tag}"),
            &format!("c.yaml:5: limits.queue_timeout_secs: {tag}"),
        ],
    );
    check(
        "via: !x true\naccess_log: !x\n  file: y\n",
        &[
            &format!("c.yaml:3: via: {tag}"),
            &format!("c.yaml:4: access_log: {tag}"),
        ],
    );
    check(
        "limits: !include limits.yaml\n",
        &[&format!("c.yaml:3: limits: {tag}")],
    );
    check(
        "domain_policy: {domains: !include x}\n",
        &[&format!("c.yaml:3: domain_policy.domains: {tag}")],
    );
    check_upstream(
        "- !include x.yaml\n- !up\n  url: x\n",
        &[
            &format!("c.yaml:5: upstream[1]: {tag}"),
            &format!("c.yaml:6: upstream[2]: {tag}"),
        ],
    );
    check(
        "admin_listen: !!str 127.0.0.1:2\nlimits: {workers: !!int 4}\n",
        &[],
    );
}

#[test]
fn a_password_that_is_a_comment_is_warned_about() {
    let empty = "has no value, so the password is empty (` #` begins a comment): write one that begins with # \
                 in 'quotes', and an empty one as ''";
    check_upstream(
        "  username: b\n  password: #x\n",
        &[&format!("c.yaml:6: upstream[0].password: {empty}")],
    );
    check_upstream("  username: b\n  password: ''\n", &[]);
    check_upstream("  username: b\n", &[]);
    check_upstream("  password: #x\n", &[]);
    check(
        "access: {users: [{username: b, password: }]}\n",
        &[
            "c.yaml:3: access.users[0]: a user has a `username` and a `password`: write both, in 'quotes' where \
           one begins with #",
        ],
    );
}

#[test]
fn curly_quotes_are_told() {
    let quotes = "curly quotes are part of the text, not quotes: write \" or ' instead";
    check("mode: “best”\n", &[&format!("c.yaml:3: mode: {quotes}")]);
    check(
        "admin_listen: ‘127.0.0.1:2’\n",
        &[&format!("c.yaml:3: admin_listen: {quotes}")],
    );
    check(
        "limits: {workers: „4“, io_timeout_secs: «5»}\n",
        &[
            &format!("c.yaml:3: limits.io_timeout_secs: {quotes}"),
            &format!("c.yaml:3: limits.workers: {quotes}"),
        ],
    );
    check(
        "domain_policy: {mode: blacklist, domains: [“a.test”]}\n",
        &[
            &format!("c.yaml:3: domain_policy.domains[0]: {quotes}"),
            "c.yaml:3: domain_policy.domains[0]: `“a.test”` is ignored: '“' is not ASCII: write the name's \
             xn-- form",
        ],
    );
    check(
        "“via”: true\n",
        &[&format!("c.yaml:3: “via”: unknown key, ignored; {quotes}")],
    );
    check_upstream(
        "- url: “http://b.test”\n",
        &[&format!("c.yaml:5: upstream[1].url: {quotes}")],
    );
}

#[test]
fn a_secret_in_curly_quotes_is_taken_as_it_is_and_warned_about() {
    let text =
        "listen: 127.0.0.1:1\nupstream: [{url: 'http://a.test', username: b, password: “x”}]\n";
    let config = read(text).unwrap();
    let credentials = config.upstreams[0].credentials.as_ref().unwrap();
    assert_eq!(credentials.authorization(), "Basic YjrigJx44oCd");
    assert_eq!(
        said(text),
        [
            "c.yaml:2: upstream[0].password: curly quotes are part of the text, not quotes: write \" or ' instead"
        ]
    );
}

#[test]
fn letters_that_are_not_seen_are_named() {
    let found = "a no-break space (U+00A0) stands in it: write a blank, or nothing, instead";
    check("mode: best\u{a0}\n", &[&format!("c.yaml:3: mode: {found}")]);
    check(
        "limits: {workers: 4\u{a0}}\n",
        &[&format!("c.yaml:3: limits.workers: {found}")],
    );
    check(
        "limits:\n\u{a0}\u{a0}workers: 4\n",
        &[&format!(
            "c.yaml:4: \u{a0}\u{a0}workers: unknown key, ignored; {found}"
        )],
    );
    check_upstream(
        "- url: http://b.test\u{a0}\n",
        &[&format!("c.yaml:5: upstream[1].url: {found}")],
    );
    let column = |line, letter, column| {
        format!(
            "c.yaml:{line}: {letter} stands in column {column}: write a blank, or nothing, instead"
        )
    };
    check(
        "via:\u{a0}true\nmode: best\n",
        &[&column(3, "a no-break space (U+00A0)", 5)],
    );
    check(
        "limits:\n  workers: 4\n \u{a0}queue: 4\n",
        &[&column(5, "a no-break space (U+00A0)", 2)],
    );
    check(
        "\u{feff}via: true\n  x: y\n",
        &[&column(3, "a byte order mark (U+FEFF)", 1)],
    );
    check(
        "admin_listen: 127.0.0.1:2\u{200b}\n",
        &[
            "c.yaml:3: admin_listen: a zero-width space (U+200B) stands in it: write a blank, or nothing, instead",
        ],
    );
    check("via: true # no\u{a0}break\n", &[]);
}

#[test]
fn names_of_other_programs_lead_to_the_key() {
    let unknown = |line: usize, key: &str, remedy: &str| {
        format!("c.yaml:{line}: {key}: unknown key, ignored; {remedy}")
    };
    check_upstream(
        "  user: b\n  pass: x\n  port: 1\n  host: y\n",
        &[
            &unknown(5, "upstream[0].user", "did you mean `username`?"),
            &unknown(6, "upstream[0].pass", "did you mean `password`?"),
            &unknown(
                7,
                "upstream[0].port",
                "a port belongs into the URL: write `url: http://host:port`",
            ),
            &unknown(
                8,
                "upstream[0].host",
                "write host and port as `url: http://host:port`",
            ),
        ],
    );
    check(
        "port: 8080\nproxies: []\naccess:\n  user: b\n",
        &[
            &unknown(
                3,
                "port",
                "write address and port as `listen: 127.0.0.1:8080`",
            ),
            &unknown(4, "proxies", "did you mean `upstream`?"),
            &unknown(
                6,
                "access.user",
                "users are a list: write `users:`, and below it `- username: ..` and `password: ..`",
            ),
        ],
    );
}

#[test]
fn a_timeout_that_could_be_each_is_asked_back() {
    let which = "unknown key, ignored; which wait do you mean: to connect (`limits.connect_timeout_secs`), for \
                 an answer (`limits.response_timeout_secs` of one attempt, `limits.request_timeout_secs` of \
                 all), for more of a body (`limits.io_timeout_secs`), for the next request \
                 (`limits.idle_timeout_secs`), in a tunnel (`limits.tunnel_idle_timeout_secs`), for a check \
                 (`health_check.timeout_secs`)?";
    check(
        "timeout: 5\nlimits:\n  timeout: 5\n  timeout_secs: 5\n  read_timeout: 5\n  upstream_timeout: 5\n",
        &[
            &format!("c.yaml:3: timeout: {which}"),
            &format!("c.yaml:5: limits.timeout: {which}"),
            &format!("c.yaml:6: limits.timeout_secs: {which}"),
            &format!("c.yaml:7: limits.read_timeout: {which}"),
            &format!("c.yaml:8: limits.upstream_timeout: {which}"),
        ],
    );
    let meant = |line: usize, key: &str, meant: &str| {
        format!("c.yaml:{line}: {key}: unknown key, ignored; did you mean `{meant}`?")
    };
    check(
        "limits:\n  idle_timeout: 5\n  requst_timeout_secs: 5\nhealth_check:\n  timeout: 5\n",
        &[
            &meant(4, "limits.idle_timeout", "idle_timeout_secs"),
            &meant(5, "limits.requst_timeout_secs", "request_timeout_secs"),
            &meant(7, "health_check.timeout", "timeout_secs"),
        ],
    );
}

#[cfg(not(feature = "tls"))]
#[test]
fn upstreams_of_other_kinds_are_told_what_to_write() {
    let only = "is not spoken to upstreams, only plain HTTP and SOCKS5 are:";
    let https = "write http:// (requests for https:// sites go through such an upstream as well), with the port \
                 on which it speaks plain HTTP; or build with `--features tls`";
    let socks = "write socks5://host:port (it resolves names itself)";
    check_upstream(
        "- url: HTTPS://b.test\n- url: socks5h://c.test:1080\n- url: socks://u:hunter2@d.test\n- url: ftp://e.test\n",
        &[
            &format!("c.yaml:5: upstream[1].url: `HTTPS` {only} {https}"),
            &format!("c.yaml:6: upstream[2].url: `socks5h` {only} {socks}"),
            &format!("c.yaml:7: upstream[3].url: `socks` {only} {socks}"),
            &format!("c.yaml:8: upstream[4].url: `ftp` {only} write http://host:port"),
        ],
    );
}

#[cfg(not(feature = "tls"))]
#[test]
fn keys_for_tls_name_the_build_that_has_it() {
    let text = "this program was built without TLS towards upstreams: build it with `--features tls`, or remove this \
                key";
    check_upstream(
        "- url: http://b.test\n  ca_file: x.pem\n  server_name: c.test\n",
        &[
            &format!("c.yaml:6: upstream[1].ca_file: {text}"),
            &format!("c.yaml:7: upstream[1].server_name: {text}"),
        ],
    );
}

#[test]
fn upstreams_without_the_word_url_are_told_what_to_write() {
    let block = "an upstream is a block of keys: write";
    check_upstream(
        "- http://b.test:3128\n- c.test:1\n- http://u:hunter2@d.test\n-\n",
        &[
            &format!("c.yaml:5: upstream[1]: {block} `- url: http://b.test:3128`"),
            &format!("c.yaml:6: upstream[2]: {block} `- url: http://c.test:1`"),
            &format!("c.yaml:7: upstream[3]: {block} `- url: http://host:port`"),
            &format!("c.yaml:8: upstream[4]: {block} `- url: http://host:port`"),
        ],
    );
    let list = "expected a list, found a text: write a line for each upstream below it, as in";
    check_file(
        "listen: a:1\nupstream: http://b.test:3128, http://c.test\n",
        &format!("c.yaml:2: upstream: {list} `- url: http://b.test:3128`"),
    );
    check_file(
        "listen: a:1\nupstream:\n  -url: http://b.test\n",
        "c.yaml:2: upstream: expected a list, found a block of keys: write each element on a line of its own, \
         after `-` and a blank",
    );
}

#[test]
fn a_line_that_is_no_key_and_value_is_told() {
    let rule = "a colon and a blank stand between a key and its value: write";
    check(
        "mode:best\nvia: true\n",
        &[&format!("c.yaml:3: {rule} `mode: ..`")],
    );
    check(
        "via: true\nmode = best\n# x\n\nlimits: {}\n",
        &[&format!("c.yaml:4: {rule} `mode: ..`")],
    );
    check_upstream(
        "  password=hunter2\n  weight: 1\n",
        &[&format!("c.yaml:5: {rule} `password: ..`")],
    );
    check(
        "hunter2\nvia: true\n",
        &["c.yaml:3: no `key: value` stands here: write a colon and a blank behind the key"],
    );
    check(
        "<<<<<<< HEAD\nmode: best\n=======\nmode: priority\n>>>>>>> x\n",
        &["c.yaml:3: a conflict between two versions of this file begins here: keep one of them"],
    );
}

#[test]
fn what_needs_quotes_is_told() {
    for (line, said) in [
        (
            "admin_token: @x",
            "write a text that begins with @, ` or % in 'quotes'",
        ),
        (
            "admin_token: \"a\\d\"",
            "a backslash in \"double quotes\" begins an escape, and this one is unknown: write the text in 'single quotes'",
        ),
        (
            "admin_token: 'x",
            "the quote that begins here is not closed: close it, or write the whole text in the other quotes",
        ),
        (
            "domain_policy: {domains: [*.a.test]}",
            "write a text that begins with * in 'quotes'",
        ),
        (
            "admin_token: *x",
            "no `&name` above it marks what this `*name` stands for; write a text that begins with * in 'quotes'",
        ),
        (
            "admin_token: a: b",
            "a colon with a blank behind it stands where no key can begin: write a text with one in 'quotes', and keys of one block below one another",
        ),
        (
            "access: {allow: [::1",
            "the bracket that begins here is not closed, or a comma is missing: in brackets write a text with brackets in it, as `${NAME}` has them, in 'quotes'",
        ),
        (
            "limits: {workers: ${COUNT}}",
            "the bracket that begins here is not closed, or a comma is missing: in brackets write a text with brackets in it, as `${NAME}` has them, in 'quotes'",
        ),
        (
            "admin_listen: [::1]:2",
            "admin_listen: a list stands where one text is wanted: write a text that begins with [ in 'quotes'",
        ),
    ] {
        check(
            &format!("{line}\nvia: true\n"),
            &[&format!("c.yaml:3: {said}")],
        );
    }
    check(
        "admin_listen: [a]\n",
        &[
            "c.yaml:3: admin_listen: a list stands where one text is wanted: write a text that begins with [ in 'quotes'",
        ],
    );
    check(
        "admin_listen:\n  host: a\n",
        &[
            "c.yaml:4: admin_listen: a block of keys stands where one text is wanted: write the text behind the colon, and one that begins with { in 'quotes'",
        ],
    );
}

#[test]
fn control_characters_are_told() {
    check(
        "via: true\u{7}\n",
        &["c.yaml:3: a control character (U+0007) stands in it: remove it"],
    );
    check_file(
        "l\0i\0s\0t\0",
        "c.yaml:1: NUL characters stand in it, as in UTF-16: save it as UTF-8",
    );
}

#[test]
fn windows_line_ends_change_no_message() {
    for text in [
        "mode: foo\n",
        "limits:\n  workers: 4\n   queue: 5\n",
        "---\nvia: true\n",
        "mode:best\nvia: true\n",
    ] {
        let text = format!("listen: a:1\n{text}");
        assert_eq!(said(&text.replace('\n', "\r\n")), said(&text));
    }
}

#[test]
fn variables_are_read_as_the_key_wants_them() {
    let text = "listen: '${HOST}:${PORT}'\nmode: ${WORD}\nvia: ${OFF}\naccess_log: ${OFF}\n\
                reload_interval_secs: ${TIME}\nlimits:\n  workers: ${COUNT}\n  io_timeout_secs: ${COUNT}00ms\n  \
                max_header_bytes: \"${COUNT}KiB\"\naccess: {allow: [\"10.0.0.${COUNT}\"]}\nupstream:\n  \
                - url: http://${HOST}:${PORT}\n    name: ${COUNT}\n    weight: ${NONE:-3}\n";
    let config = read(text).unwrap();
    assert_eq!(config.listen.to_string(), "p.test:3128");
    assert_eq!(format!("{:?}", config.mode), "Best");
    assert!(!config.via);
    assert_eq!(config.access_log, None);
    assert_eq!(config.reload_interval.unwrap().as_millis(), 2500);
    assert_eq!(config.limits.workers.unwrap().get(), 8);
    assert_eq!(config.limits.io_timeout.as_millis(), 800);
    assert_eq!(config.limits.max_header_bytes, 8192);
    assert!(config.access.allow.contains("10.0.0.8".parse().unwrap()));
    let upstream = &config.upstreams[0];
    assert_eq!(upstream.authority.to_string(), "p.test:3128");
    assert_eq!((upstream.name.as_str(), upstream.weight), ("8", 3));
}

#[test]
fn a_secret_of_a_variable_is_taken_letter_by_letter_and_told_nowhere() {
    let text = "listen: 127.0.0.1:1\nadmin_listen: 127.0.0.1:2\nadmin_token: ${TOKEN}\n\
                upstream:\n  - url: http://a.test\n    username: b\n    password: ${SECRET}\n";
    let config = read(text).unwrap();
    assert_eq!(said(text), [""; 0]);
    let credentials = config.upstreams[0].credentials.as_ref().unwrap();
    assert_eq!(
        credentials.authorization(),
        "Basic YjpodW50ZXIyOiAjICd4Jw=="
    );
    let report = crate::config::report::CheckReport { config: &config };
    let shown = format!("{report}{config:?}");
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(
        shown.contains("admin_token                         yes (from TOKEN)\n"),
        "{shown}"
    );
    for broken in [
        "admin_token: ${SECRET}\n",
        "admin_token: hunter2${\n",
        "access: {users: [{username: '${SECRET}', password: '${TOKEN}${NONE}'}]}\n",
    ] {
        let text = format!("listen: 127.0.0.1:1\nvia: 5\n{broken}");
        let errors = read(&text).unwrap_err();
        assert!(
            !format!("{errors}{errors:?}").contains("hunter2"),
            "{errors}"
        );
    }
}

#[test]
fn nothing_in_a_variable_becomes_yaml() {
    let text = "listen: 127.0.0.1:1\nupstream:\n  - url: http://a.test\n    username: ${YAML}\n";
    let config = read(text).unwrap();
    assert!(config.via);
    let credentials = config.upstreams[0].credentials.as_ref().unwrap();
    // all three lines, and a colon
    assert_eq!(
        credentials.authorization(),
        "Basic YTEKdmlhOiBmYWxzZQptb2RlOiBiZXN0Og=="
    );
}

#[test]
fn dollars_without_a_brace_are_letters() {
    let text = "listen: 127.0.0.1:1\nupstream:\n  - url: http://a.test\n    username: $HOST\n    \
                password: pa$$w$x$$${HOST}$\n";
    let credentials = read(text).unwrap().upstreams.remove(0).credentials.unwrap();
    // $HOST:pa$$w$x$${HOST}$
    assert_eq!(
        credentials.authorization(),
        "Basic JEhPU1Q6cGEkJHckeCQke0hPU1R9JA=="
    );
}

#[test]
fn variables_that_do_not_fit_are_told_with_line_and_key() {
    let unset = "the environment has no variable `NONE`: set it, or write `${NONE:-default}`; a `${` that \
                 belongs to the value is written `$${`";
    let text = "listen: ${NONE}\nadmin_listen: ${NONE}\nvia: ${NONE}\nlimits:\n  workers: ${NONE}\n  \
                io_timeout_secs: ${NONE}\naccess_log: ${NONE}\nmode: ${NONE}\nupstream:\n  - url: ${NONE}\n";
    let keys = [
        "1: listen",
        "2: admin_listen",
        "3: via",
        "5: limits.workers",
        "6: limits.io_timeout_secs",
        "7: access_log",
        "8: mode",
        "10: upstream[0].url",
    ];
    let wanted: Vec<_> = keys
        .iter()
        .map(|key| format!("c.yaml:{key}: {unset}"))
        .collect();
    check_file(text, &wanted.join("\n"));
    check(
        "mode: ${WORD\nlimits: {workers: \"${WORD}\"}\nvia: ${COUNT}\n",
        &[
            "c.yaml:3: mode: a `${` is not closed by a `}`: write `${NAME}` or `${NAME:-default}`, or `$${` for a \
         `${` that belongs to the value",
            "c.yaml:4: limits.workers: `best` is no number: write a whole number from 0 to 16384 (from WORD)",
            "c.yaml:5: via: expected `true` or `false` without quotes, found a number (from COUNT)",
        ],
    );
    check(
        "limits:\n  workers: ${EMPTY}\n",
        &[
            "c.yaml:4: limits.workers: nothing stands here: write a whole number from 0 to 16384 (from EMPTY)",
        ],
    );
    check(
        "domain_policy:\n  domains: ${HOST}\n",
        &[
            "c.yaml:4: domain_policy.domains: expected a list, found a text: write each element on a line of its \
         own, after `-` and a blank (from HOST)",
        ],
    );
    check("# ${NONE}\nx-more: ${NONE}\n", &[]);
}

#[test]
fn a_block_takes_in_the_keys_of_others_and_its_own_win() {
    let text = "listen: 127.0.0.1:1\nx-pool:\n  - &slow {weight: 2, priority: 7}\n  - &paid\n    \
                username: b\n    password: 007\n    priority: 9\nupstream:\n  - <<: *slow\n    \
                url: http://a.test\n    weight: 5\n  - url: http://b.test\n    <<: [*paid, *slow]\n  \
                - &third\n    url: http://c.test\n    weight: ~\n    <<: *slow\n  - <<: *third\n    \
                url: http://d.test\n";
    let config = read(text).unwrap();
    assert_eq!(said(text), [""; 0]);
    let shares: Vec<_> = config
        .upstreams
        .iter()
        .map(|u| (u.weight, u.priority))
        .collect();
    assert_eq!(shares, [(5, 7), (2, 9), (1, 7), (1, 7)]);
    // a password is a text also where it is only taken in
    let credentials = config.upstreams[1].credentials.as_ref().unwrap();
    assert_eq!(credentials.authorization(), "Basic YjowMDc=");
}

#[test]
fn variables_and_mistakes_in_what_is_taken_in_are_found() {
    let text = "listen: 127.0.0.1:1\nx-limits: &few\n  workers: ${COUNT}\n  wrokers: 5\n  queue: x\nlimits:\n  \
                <<: *few\n  io_timeout_secs: 5\nupstream: [{url: 'http://a.test'}]\n";
    check_file(
        text,
        "c.yaml:4: limits.wrokers: unknown key, ignored; did you mean `workers`?\n\
         c.yaml:5: limits.queue: `x` is no number: write a whole number from 0 to 1048576",
    );
    let config = read(&text.replace("  wrokers: 5\n  queue: x\n", "")).unwrap();
    assert_eq!(config.limits.workers.unwrap().get(), 8);
}

#[test]
fn a_merge_of_what_is_no_block_is_told() {
    let merge = "takes in the keys of another block, once in a block: write `<<: *name`, or `<<: [*one, *other]`, \
                 where `&name` marks that block above";
    check(
        "limits:\n  <<: 5\n",
        &[&format!("c.yaml:4: limits.<<: {merge}")],
    );
    check(
        "limits:\n  <<:\n",
        &[&format!("c.yaml:4: limits.<<: {merge}")],
    );
    check(
        "limits:\n  <<: [{workers: 5}, 6]\n",
        &[&format!("c.yaml:4: limits.<<: {merge}")],
    );
    check(
        "limits:\n  <<: {workers: 5}\n  <<: {queue: 5}\n",
        &[&format!("c.yaml:5: limits.<<: {merge}")],
    );
}

#[test]
fn merges_that_unfold_without_end_are_refused() {
    let level = |level: u32| {
        let merge = vec![format!("*a{level}"); 10].join(", ");
        format!("x-{level}: &a{} {{<<: [{merge}]}}\n", level + 1)
    };
    let first = "x: &a0 {a: 1, b: 2, c: 3, d: 4, e: 5, f: 6}\n";
    let bomb = first.to_owned() + &(0..9).map(level).collect::<String>();
    let told = said(&bomb).join("\n");
    assert!(told.starts_with("c.yaml"), "{told}");
    assert!(
        told.contains(": aliases (`*name`) unfold to more than"),
        "{told}"
    );
    check_file(
        "x: &x\n  <<: *x\n",
        "c.yaml:1: recursion limit exceeded: more than 128 blocks stand in one another, or an alias \
         (`*name`) in what it stands for",
    );
}

#[test]
fn times_and_sizes_may_have_units() {
    let times = [
        ("500ms", 500),
        ("30s", 30_000),
        ("1.5s", 1500),
        ("2m", 120_000),
        ("1h", 3_600_000),
        ("2 d", 172_800_000),
    ];
    for (written, wanted) in times {
        let text = format!("listen: a:1\nlimits: {{io_timeout_secs: {written}}}\n");
        assert_eq!(
            read(&text).unwrap().limits.io_timeout.as_millis(),
            wanted,
            "{written}"
        );
    }
    let sizes = [
        ("64KiB", 65_536),
        ("64k", 65_536),
        ("64K", 65_536),
        ("1MiB", 1_048_576),
        ("1m", 1_048_576),
        ("1 M", 1_048_576),
        ("2048", 2048),
    ];
    for (written, wanted) in sizes {
        let text = format!("listen: a:1\nlimits: {{max_header_bytes: {written}}}\n");
        assert_eq!(
            read(&text).unwrap().limits.max_header_bytes,
            wanted,
            "{written}"
        );
    }
}

#[test]
fn a_unit_that_is_not_known_is_told_which_are() {
    let time = "write a number of seconds from 0.001 to 315360000 (ten years, which is as good as never), or a \
                time with a unit (ms, s, m, h or d), as in 500ms";
    for (written, said) in [
        ("5x", "`5x` is no number"),
        ("1h30m", "`1h30m` is no number"),
        ("5min", "`5min` is no number"),
        ("s", "`s` is no number"),
        ("-5s", "-5 is out of range"),
        ("infs", "`infs` is no number"),
        ("0ms", "0 is out of range"),
        ("99999d", "8639913600 is out of range"),
    ] {
        check(
            &format!("limits: {{io_timeout_secs: {written}}}\n"),
            &[&format!("c.yaml:3: limits.io_timeout_secs: {said}: {time}")],
        );
    }
    let size = "write a whole number from 1024 to 1048576, or one of KiB or MiB, as in 64KiB";
    for (written, said) in [
        ("64KB", "`64KB` is no number"),
        ("1.5k", "`1.5k` is no number"),
        ("1GiB", "`1GiB` is no number"),
        ("2MiB", "2097152 is out of range"),
        ("0k", "0 is out of range"),
        ("99999999999999999k", "`99999999999999999k` is no number"),
    ] {
        check(
            &format!("limits: {{max_header_bytes: {written}}}\n"),
            &[&format!(
                "c.yaml:3: limits.max_header_bytes: {said}: {size}"
            )],
        );
    }
    check(
        "limits: {workers: 4k}\n",
        &["c.yaml:3: limits.workers: `4k` is no number: write a whole number from 0 to 16384"],
    );
}

#[test]
fn a_user_of_the_client_is_told_to_upstreams_only_where_there_are_users() {
    let file = |more: &str| {
        format!(
            "listen: 127.0.0.1:1\nupstream: [{{url: 'http://a.test', username: 'x-{{user}}'}}]\n{more}"
        )
    };
    check_file(
        &file(""),
        "c.yaml:2: upstream: the user name for a.test:8080 has `{user}` in it, and without `access.users` nobody is \
         a user: list users, or write `{session}` or `{client}`",
    );
    check_file(&file("access: {users: [{username: a, password: x}]}"), "");
}

#[test]
fn the_credentials_of_clients_are_for_one_proxy_alone() {
    let file = |upstream: &str, more: &str| {
        format!("listen: 127.0.0.1:1\nupstream: [{{{upstream}, credentials: client}}]\n{more}")
    };
    check_file(&file("url: 'http://a.test'", ""), "");
    check_file(
        &file(
            "url: 'http://a.test'",
            "access: {users: [{username: a, password: x}]}",
        ),
        "c.yaml:2: upstream: the credentials of clients are for this proxy, which wants those of `access.users`, and \
         cannot be for a.test:8080, too (`credentials: client`): remove one of the two",
    );
    check_file(
        &file("url: 'http://a.test', username: a, password: x", ""),
        "c.yaml:2: upstream[0].credentials: the client's credentials are passed on, so those of `username` would never \
         be: remove one of the two",
    );
    check_file(
        &file("url: 'socks5://a.test'", ""),
        "c.yaml:2: upstream[0].credentials: clients have no credentials of SOCKS5 to pass on: write `username` and \
         `password` for this upstream",
    );
}
