//! The configuration file: read, checked to its end, and turned into values
//! that need no second look.
//!
//! [`keys`] is the table of all keys: what each may be, and what it is where it is absent. Around it
//! there are three steps, each in modules of its own. `raw` knows
//! YAML and nothing of what it means, `variables` fills in what the environment has, `syntax` says
//! what is no YAML; `reader` and `findings` take typed values
//! out of it and collect every mistake with file, line and key; the rest knows
//! what the values are for: `root` as a whole, [`listen`], [`limits`], [`health`], [`access`]
//! and `upstreams` each for its part. What comes out is in [`checked`];
//! [`report`] tells people what it means, `advice` what may surprise them.
//!
//! A [`source`] is where all of it comes from: a file, and the [`overrides`] of environment and command line.
//!
//! Only this module uses serde and the YAML parser. When a file is read again
//! is not decided here.

pub mod access;
mod advice;
pub mod checked;
pub mod exits;
pub mod findings;
pub mod health;
pub mod keys;
pub mod limits;
pub mod listen;
mod lists;
pub mod overrides;
mod raw;
mod reader;
pub mod report;
mod root;
mod rules;
pub mod secret;
pub mod source;
mod syntax;
mod text_file;
#[cfg(feature = "tls")]
mod tls;
pub mod trace;
mod upstreams;
mod urls;
mod variables;

use std::env;
use std::path::Path;

use checked::Config;
use findings::ConfigErrors;
use overrides::Overrides;
use root::Given;
use secret::Files;
use source::Source;

/// Reads and checks the file at `path`, and the secret files it names; nothing else is asked.
///
/// # Errors
///
/// The file is missing, unreadable, larger than 1 MiB or no UTF-8 text, or
/// something in it is wrong: then every mistake in it is told.
pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
    Source::from(path.to_owned()).load()
}

/// Checks `text` as if it were the content of a file called `file`. Secret
/// files it names are read.
///
/// # Errors
///
/// Every mistake in the text.
pub fn parse(text: &str, file: &str) -> Result<Config, ConfigErrors> {
    let given = Given {
        path: Path::new(file),
        text,
        mode: None,
        is_mounted: false,
        overrides: &Overrides::default(),
        environment: &|name| env::var_os(name),
    };
    root::check(&given, &mut Files::beside(given.path))
}

#[cfg(test)]
mod mistakes {
    mod tests;
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use std::net::IpAddr;

    use super::findings::Severity;
    use super::*;
    use crate::protocol::target::Host;
    use crate::route::{Asked, Route};

    /// A folder that is gone with the test.
    pub(super) struct TestFolder(PathBuf);

    impl TestFolder {
        pub(in crate::config) fn new() -> Self {
            static COUNT: AtomicUsize = AtomicUsize::new(0);
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("http-proxy-lb-config-{}-{number}", std::process::id());
            let path = env::temp_dir().join(name);
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        pub(in crate::config) fn write(
            &self,
            name: &str,
            content: impl AsRef<[u8]>,
            mode: u32,
        ) -> PathBuf {
            let path = self.0.join(name);
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            path
        }
    }

    impl Drop for TestFolder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    const WITH_FILES: &str = "listen: 127.0.0.1:1\nadmin_listen: 127.0.0.1:2\n\
        admin_token_file: token\naccess: {users_file: users}\nupstream:\n  - url: http://p.test\n    \
        username: u\n    password_file: password\n";

    fn said(config: &Config) -> Vec<String> {
        config
            .warnings
            .iter()
            .map(|notice| notice.text.clone())
            .collect()
    }

    #[test]
    fn secrets_are_read_from_files_beside_the_configuration() {
        let folder = TestFolder::new();
        folder.write("token", "0123456789abcdef\r\n", 0o600);
        folder.write("users", "# people\n\nann:p:w\nbob:\n", 0o640);
        folder.write("password", " pass word \n", 0o600);
        let config = load(&folder.write("c.yaml", WITH_FILES, 0o644)).unwrap();
        assert_eq!(said(&config), [""; 0]);
        assert_eq!(config.admin_token.unwrap().expose(), "0123456789abcdef");
        let names: Vec<_> = config
            .access
            .users
            .iter()
            .map(|u| u.username.as_str())
            .collect();
        assert_eq!(names, ["ann", "bob"]);
        let ann = config.access.users[0].credentials.authorization();
        assert_eq!(ann, "Basic YW5uOnA6dw==");
        let upstream = config.upstreams[0].credentials.as_ref().unwrap();
        assert_eq!(upstream.authorization(), "Basic dTogcGFzcyB3b3JkIA==");
    }

    #[test]
    fn a_changed_secret_changes_the_fingerprint() {
        let folder = TestFolder::new();
        folder.write("token", "0123456789abcdef", 0o600);
        folder.write("users", "ann:x", 0o600);
        folder.write("password", "x", 0o600);
        let path = folder.write("c.yaml", WITH_FILES, 0o600);
        let before = load(&path).unwrap().fingerprint;
        assert_eq!(load(&path).unwrap().fingerprint, before);
        folder.write("password", "y", 0o600);
        assert_ne!(load(&path).unwrap().fingerprint, before);
    }

    const WITH_LISTS: &str = "listen: 127.0.0.1:1\nupstream_files: [exits.txt]\n\
        rules: [{domains_file: ads.txt, use: refuse}]\ndefault: eu\n";

    #[test]
    fn a_mistyped_part_of_a_user_name_is_told_in_the_file_and_in_lists() {
        let folder = TestFolder::new();
        folder.write(
            "exits.txt",
            "a.test:1:b-{sesion}:x\nb.test:1:b-{usr}:x\n",
            0o600,
        );
        let text = "listen: 127.0.0.1:1\nupstream_files: [exits.txt]\nupstream:\n  \
                    - {url: 'http://c.test', username: 'b-{clint}'}\n";
        let config = load(&folder.write("c.yaml", text, 0o600)).unwrap();
        assert_eq!(
            said(&config),
            [
                "line 1 of `exits.txt`: `{sesion}` stands for nothing: did you mean `{session}`?",
                "`{clint}` stands for nothing: did you mean `{client}`?",
            ]
        );
    }

    #[test]
    fn groups_that_a_list_lacks_are_told_by_the_list_alone() {
        for (exits, wanted) in [
            (
                "",
                "upstream_files: `exits.txt` is empty, so groups that rules name have no upstream",
            ),
            ("<html>\n", "no line of `exits.txt` can be used"),
        ] {
            let folder = TestFolder::new();
            folder.write("exits.txt", exits, 0o600);
            folder.write("ads.txt", "ads.test", 0o644);
            let path = folder.write("c.yaml", WITH_LISTS, 0o644);
            let errors = load(&path).unwrap_err().to_string();
            assert!(
                errors.contains(wanted) && !errors.contains("group `eu`"),
                "{errors}"
            );
        }
        let folder = TestFolder::new();
        folder.write("ads.txt", "ads.test", 0o644);
        let path = folder.write("c.yaml", WITH_LISTS, 0o644);
        let errors = load(&path).unwrap_err().errors;
        assert_eq!(errors.len(), 1, "{errors:?}");
    }

    #[test]
    fn a_hundred_thousand_names_and_ten_thousand_upstreams_are_read_from_lists() {
        let folder = TestFolder::new();
        let lines = |count: usize, line: &dyn Fn(usize) -> String| {
            let lines: Vec<_> = (0..count).map(line).collect();
            lines.concat()
        };
        let ads = lines(100_000, &|n| format!("0.0.0.0 ad{n}.test\n"));
        let exits = lines(10_000, &|n| {
            format!("exit{n}.test:{}:ann:x group=eu\n", n + 1)
        });
        folder.write("ads.txt", ads, 0o644);
        folder.write("exits.txt", exits, 0o600);
        let config = load(&folder.write("c.yaml", WITH_LISTS, 0o644)).unwrap();
        assert_eq!(said(&config), [""; 0]);
        assert_eq!(config.upstreams.len(), 10_000);
        assert_eq!(config.upstreams[9_999].name, "exit9999.test:10000");
        assert!(
            config.rule_words[0].starts_with("domains_file: 100000 lines of `ads.txt`, about ")
        );
        let way = |name: &str| {
            let rules = &config.rules;
            let place = rules.decides(Asked {
                host: &Host::Name(name.into()),
                port: 80,
                user: None,
                client: IpAddr::from([127, 0, 0, 1]),
            });
            rules.ways(place).first
        };
        assert_eq!(way("ad99999.test"), Route::Refused);
        assert_eq!(way("x.ad99999.test"), Route::ViaUpstream(Some(0)));
    }

    #[test]
    fn a_bad_line_of_a_list_is_named_and_skipped_and_fails_the_check() {
        let folder = TestFolder::new();
        folder.write("ads.txt", "# ads\n\n*.ads.test\na b\n", 0o644);
        let exits = "a.test:1:ann:x group=eu\nb.test:hunter2\na.test:1:ann:y\n";
        folder.write("exits.txt", exits, 0o600);
        let path = folder.write("c.yaml", WITH_LISTS, 0o644);
        let config = load(&path).unwrap();
        assert_eq!(
            said(&config),
            [
                "line 2 of `exits.txt` is skipped: the port is invalid: write a number from 1 to 65535 \
                 behind the colon",
                "line 3 of `exits.txt` is skipped: the same upstream as line 1 of `exits.txt`",
                "line 4 of `ads.txt` is skipped: write one name a line, or an address and names as a \
                 hosts file has them",
            ]
        );
        assert!(config.relies_on_compatibility());
        assert_eq!(config.upstreams.len(), 1);
        folder.write("ads.txt", "a b\n".repeat(1000) + "a.test", 0o644);
        let lines = said(&load(&path).unwrap());
        assert_eq!(lines.len(), 2 + 6);
        assert_eq!(lines[7], "995 more lines of `ads.txt` are skipped");
    }

    #[test]
    fn a_list_without_a_good_line_is_an_error_and_an_empty_one_is_told() {
        let folder = TestFolder::new();
        folder.write("exits.txt", "a.test:1 group=eu", 0o644);
        let path = folder.write("c.yaml", WITH_LISTS, 0o644);
        for ads in ["<html>502 Bad Gateway</html>\n", "||ads.test^\n||x.test^\n"] {
            folder.write("ads.txt", ads, 0o644);
            let said = load(&path).unwrap_err().to_string();
            let wanted = "c.yaml:3: rules[0].domains_file: no line of `ads.txt` can be used";
            assert!(said.contains(wanted), "{said}");
        }
        folder.write("ads.txt", "# nothing\n\n", 0o644);
        let config = load(&path).unwrap();
        assert_eq!(said(&config), ["`ads.txt` is empty"]);
        assert!(!config.relies_on_compatibility());
        folder.write("exits.txt", "<html>502 Bad Gateway</html>\n", 0o644);
        let said = load(&path).unwrap_err().to_string();
        assert!(
            said.contains("no line of `exits.txt` can be used"),
            "{said}"
        );
    }

    #[test]
    fn a_list_is_as_large_as_it_likes_up_to_its_limit_and_a_changed_one_is_seen() {
        let folder = TestFolder::new();
        folder.write("ads.txt", vec![b'\n'; 2 << 20], 0o644);
        folder.write("exits.txt", "a.test:1 group=eu", 0o644);
        let path = folder.write("c.yaml", WITH_LISTS, 0o644);
        let before = load(&path).unwrap().fingerprint;
        assert_eq!(load(&path).unwrap().fingerprint, before);
        folder.write("ads.txt", "a.test", 0o644);
        let after = load(&path).unwrap().fingerprint;
        assert_ne!(after, before);
        folder.write("exits.txt", "a.test:1 group=eu\nb.test:1", 0o644);
        assert_ne!(load(&path).unwrap().fingerprint, after);
        fs::File::create(folder.0.join("ads.txt"))
            .unwrap()
            .set_len((64 << 20) + 1)
            .unwrap();
        let said = load(&path).unwrap_err().to_string();
        assert_eq!(
            said,
            format!(
                "{}:3: rules[0].domains_file: `ads.txt`: is larger than 64 MiB",
                path.display()
            )
        );
    }

    #[test]
    fn a_list_with_passwords_is_kept_from_others() {
        let folder = TestFolder::new();
        folder.write("ads.txt", "ads.test", 0o644);
        folder.write("exits.txt", "a.test:1:ann:x group=eu", 0o644);
        let path = folder.write("c.yaml", WITH_LISTS, 0o644);
        let config = load(&path).unwrap();
        assert_eq!(
            said(&config),
            ["everybody may read `exits.txt`: chmod o-rwx it"]
        );
        folder.write("exits.txt", "a.test:1:ann:x group=eu", 0o602);
        let said = load(&path).unwrap_err().to_string();
        assert!(
            said.contains("everybody may write to `exits.txt`"),
            "{said}"
        );
    }

    #[test]
    fn a_secret_that_others_may_write_is_refused() {
        let folder = TestFolder::new();
        folder.write("token", "0123456789abcdef", 0o602);
        folder.write("users", "ann:x", 0o666);
        folder.write("password", "x", 0o622);
        let error = load(&folder.write("c.yaml", WITH_FILES, 0o600))
            .unwrap_err()
            .to_string();
        let lines: Vec<_> = error.lines().collect();
        assert_eq!(lines.len(), 3, "{error}");
        for (line, name) in lines.iter().zip(["token", "users", "password"]) {
            let wanted =
                format!("everybody may write to `{name}`, so it is no secret: chmod o-rwx");
            assert!(line.contains(&wanted), "{line}");
        }
    }

    #[test]
    fn a_secret_that_others_may_read_is_warned_about() {
        let folder = TestFolder::new();
        folder.write("token", "0123456789abcdef", 0o604);
        folder.write("users", "ann:x", 0o644);
        folder.write("password", "x", 0o620);
        let config = load(&folder.write("c.yaml", WITH_FILES, 0o600)).unwrap();
        assert_eq!(
            said(&config),
            [
                "everybody may read `token`: chmod o-rwx it",
                "everybody may read `users`: chmod o-rwx it",
                "its group may write to `password`: chmod g-w it",
            ]
        );
        assert!(!config.relies_on_compatibility());
    }

    #[test]
    fn secret_files_that_cannot_be_used_are_named_with_the_reason() {
        let folder = TestFolder::new();
        fs::create_dir(folder.0.join("token")).unwrap();
        folder.write("users", "ann\n", 0o600);
        folder.write("password", "\n", 0o600);
        let error = load(&folder.write("c.yaml", WITH_FILES, 0o600))
            .unwrap_err()
            .to_string();
        for part in [
            ":3: admin_token_file: `token`: is not a file",
            ":4: access.users_file: line 1 of `users` has no colon: write user:password",
            ":8: upstream[0].password_file: `password` is empty",
        ] {
            assert!(error.contains(part), "{error}");
        }
        fs::remove_file(folder.0.join("password")).unwrap();
        let error = load(&folder.0.join("c.yaml")).unwrap_err().to_string();
        assert!(
            error.contains("password_file: `password`: cannot be read: No such file"),
            "{error}"
        );
    }

    #[test]
    fn a_configuration_with_secrets_that_others_may_read_is_warned_about() {
        let folder = TestFolder::new();
        let text = "listen: 127.0.0.1:1\nupstream:\n  - {url: 'http://p.test', username: u, \
                    password: x}\n";
        let config = load(&folder.write("c.yaml", text, 0o644)).unwrap();
        assert_eq!(config.warnings[0].severity, Severity::Advice);
        assert!(said(&config)[0].starts_with("everybody may read this file"));
        let config = load(&folder.write("c.yaml", text, 0o640)).unwrap();
        assert_eq!(said(&config), [""; 0]);
    }

    #[test]
    fn a_missing_file_is_one_line_with_the_path_and_a_way_out() {
        let error = load(Path::new("/nonexistent/c.yaml")).unwrap_err();
        assert_eq!(error.errors.len(), 1);
        let said = error.to_string();
        assert!(
            said.starts_with("/nonexistent/c.yaml: no such file"),
            "{said}"
        );
        assert!(said.contains("http-proxy-lb demo"));
        assert_eq!(said.lines().count(), 1);
    }

    #[test]
    fn a_file_that_cannot_be_a_configuration_is_refused() {
        let folder = TestFolder::new();
        let check = |path: &Path, part: &str| {
            let error = load(path).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        check(&folder.0, "is a folder");
        let mut large = b"listen: 127.0.0.1:1\n#".to_vec();
        large.resize(1024 * 1024 + 1, b'x');
        check(
            &folder.write("large", &large, 0o600),
            "is larger than 1 MiB",
        );
        check(
            &folder.write("latin1", b"a: b\n# \xe9\n", 0o600),
            "latin1:2: is not UTF-8 text",
        );
        large.pop();
        load(&folder.write("large", &large, 0o600)).unwrap();
    }
}
