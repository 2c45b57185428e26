//! Where a configuration comes from: a file, the environment and the command line, or the last two alone.
//!
//! Whether there is a file is decided once, when the program starts. If one that vanished later counted
//! as none, the next look at it would drop what it said about who may use this proxy.

use std::env;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::checked::{AdminAccess, Config};
use super::findings::ConfigErrors;
use super::overrides::{Overrides, variable};
use super::root::{self, Given};
use super::secret::Files;
use super::text_file::{self, FILE_MAX, Unread};
use super::trace::Trace;

/// The file that is read where none is named.
const FILE_DEFAULT: &str = "config.yaml";

/// What has to be set to do without a file.
const NEEDED: [&str; 2] = ["listen", "upstream"];

/// What messages call a configuration without a file.
const NO_FILE: &str = "no file";

/// What a configuration is made from, each time it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// `None`: nothing but `overrides`.
    file: Option<PathBuf>,
    overrides: Overrides,
}

impl From<PathBuf> for Source {
    /// The file alone.
    fn from(file: PathBuf) -> Self {
        Self {
            file: Some(file),
            overrides: Overrides::default(),
        }
    }
}

impl Source {
    /// The file that was `named`, which must be there, and `overrides`. Where none was named it is
    /// `config.yaml`; or none, if that does not exist and `overrides` do without.
    pub fn new(named: Option<PathBuf>, overrides: Overrides) -> Self {
        let default = || {
            let file = PathBuf::from(FILE_DEFAULT);
            let is_dispensable = is_absent(&file) && NEEDED.iter().all(|key| overrides.set(key));
            (!is_dispensable).then_some(file)
        };
        Self {
            file: named.or_else(default),
            overrides,
        }
    }

    /// The file, if there is one.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Whether there is something to read: the file, or all that is needed without one.
    pub fn is_there(&self) -> bool {
        let file = self.file.as_ref();
        file.is_none_or(|file| file.symlink_metadata().is_ok())
    }

    /// Whether anything takes the place of what the file says.
    pub fn has_overrides(&self) -> bool {
        self.overrides.names().next().is_some()
    }

    /// Reads and checks the file, and the secret files and lists that are named.
    ///
    /// # Errors
    ///
    /// The file is missing, unreadable, larger than 1 MiB or no UTF-8 text, or something in it or in
    /// the overrides is wrong: then every mistake is told.
    pub fn load(&self) -> Result<Config, ConfigErrors> {
        self.load_traced().0
    }

    /// The same, with a trace of the files: as long as these are as they were, so is what comes of them.
    pub fn load_traced(&self) -> (Result<Config, ConfigErrors>, Trace) {
        let mut files = Files::beside(self.path());
        let found = self.read(&mut files, root::check);
        (found, files.trace)
    }

    /// Reads how the relay with this configuration is asked, and what is wrong with the file, but not the lists.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or is no YAML.
    pub fn admin(&self) -> Result<AdminAccess, ConfigErrors> {
        self.read(&mut Files::without_lists(self.path()), root::admin)
    }

    /// The file, or what stands for none.
    fn path(&self) -> &Path {
        self.file.as_deref().unwrap_or(Path::new(NO_FILE))
    }

    fn read<T>(
        &self,
        files: &mut Files,
        check: impl Fn(&Given<'_>, &mut Files) -> Result<T, ConfigErrors>,
    ) -> Result<T, ConfigErrors> {
        let Some(path) = &self.file else {
            let given = Given {
                path: Path::new(NO_FILE),
                text: "",
                mode: None,
                is_mounted: false,
                overrides: &self.overrides,
                environment: &|name| env::var_os(name),
            };
            return check(&given, files);
        };
        let opened = File::open(path).map_err(Unread::Failed);
        let read = opened.and_then(|file| text_file::read(file, FILE_MAX));
        let (text, stamp) = read.map_err(|why| {
            files.trace.failed();
            self.unreadable(path, why)
        })?;
        files.trace.read(path, FILE_MAX, (&text, stamp));
        let given = Given {
            path,
            text: &text,
            mode: Some(stamp.mode),
            is_mounted: is_mounted(path),
            overrides: &self.overrides,
            environment: &|name| env::var_os(name),
        };
        check(&given, files)
    }

    fn unreadable(&self, path: &Path, why: Unread) -> ConfigErrors {
        let mut line = None;
        let said = match why {
            Unread::Failed(error) if error.kind() == io::ErrorKind::NotFound => self.missing(path),
            Unread::Failed(error) if error.kind() == io::ErrorKind::IsADirectory => {
                "is a folder: name the file in it".to_owned()
            }
            Unread::Failed(error) => format!("cannot be read: {error}"),
            Unread::TooLarge => {
                "is larger than 1 MiB, so it is hardly a configuration file".to_owned()
            }
            Unread::Utf16 => "is UTF-16 text: save it as UTF-8".to_owned(),
            Unread::NoText { line: invalid } => {
                line = Some(invalid);
                "is not UTF-8 text: save it as UTF-8".to_owned()
            }
        };
        let mut errors = ConfigErrors::about_file(&path.display().to_string(), line, said);
        errors.errors.extend(self.overrides.mistaken());
        errors
    }

    /// What to do about a file that is not there.
    fn missing(&self, path: &Path) -> String {
        let file = path.display();
        let (set, unset): (Vec<&str>, Vec<&str>) =
            NEEDED.iter().partition(|key| self.overrides.set(key));
        match (&*set, &*unset) {
            ([_], [key]) => format!(
                "no such file, and to do without one --{key} (or {}) is missing",
                variable(key)
            ),
            (_, []) => {
                "no such file; one that is named must be there, though all that is needed is \
                        set without it"
                    .to_owned()
            }
            _ => format!(
                "no such file: write one with `http-proxy-lb init > {file}`, name another with \
                 --config FILE, do without by --listen 127.0.0.1:8080 --upstream http://host:port, \
                 or look around first with `http-proxy-lb demo`"
            ),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let overrides: Vec<&str> = self.overrides.names().collect();
        let overrides = overrides.join(", ");
        match &self.file {
            Some(file) if overrides.is_empty() => write!(out, "{}", file.display()),
            Some(file) => write!(out, "{} with {overrides}", file.display()),
            None => out.write_str(&overrides),
        }
    }
}

/// Whether there is no such file. One that cannot be looked for may be there, and say who may use this proxy.
fn is_absent(file: &Path) -> bool {
    let looked = file.symlink_metadata();
    looked.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// Whether `file` is mounted by itself, as containers may have it. As far as the system tells.
fn is_mounted(file: &Path) -> bool {
    let found = fs::canonicalize(file).and_then(|path| {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        Ok(is_mount_point(&path, &mounts))
    });
    found.unwrap_or(false)
}

/// `mounts` is the content of `/proc/self/mountinfo`, see proc(5).
fn is_mount_point(path: &Path, mounts: &str) -> bool {
    let path = path.to_string_lossy();
    let escaped = path.replace('\\', "\\134").replace(' ', "\\040");
    mounts
        .lines()
        .any(|mount| mount.split(' ').nth(4) == Some(&*escaped))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overrides(variables: &[(&str, &str)]) -> Overrides {
        let owned = |(name, value): &(&str, &str)| (name.into(), value.into());
        Overrides::of_environment(variables.iter().map(owned))
    }

    const LISTEN: (&str, &str) = ("HTTP_PROXY_LB_LISTEN", "127.0.0.1:1");
    const UPSTREAMS: (&str, &str) = ("HTTP_PROXY_LB_UPSTREAMS", "http://a.test");

    #[test]
    fn what_is_needed_may_be_all_there_is() {
        let source = Source::new(None, overrides(&[LISTEN, UPSTREAMS]));
        assert_eq!(source.file(), None);
        let config = source.load().unwrap();
        assert_eq!(config.upstreams.len(), 1);
        assert_eq!(config.fingerprint, source.load().unwrap().fingerprint);
        let named = "HTTP_PROXY_LB_LISTEN, HTTP_PROXY_LB_UPSTREAMS";
        assert_eq!(source.to_string(), named);
    }

    #[test]
    fn a_file_that_is_missing_is_told_with_what_else_there_is() {
        let check = |source: Source, said: &str| {
            let errors = source.load().unwrap_err().to_string();
            assert!(errors.contains(said), "{errors}");
            assert_eq!(errors.lines().count(), 1, "{errors}");
        };
        let none = Source::new(None, Overrides::default());
        check(
            none,
            "config.yaml: no such file: write one with `http-proxy-lb init > config.yaml`",
        );
        let half = Source::new(None, overrides(&[LISTEN]));
        let said = "to do without one --upstream (or HTTP_PROXY_LB_UPSTREAMS) is missing";
        check(half, said);
        let mistyped = overrides(&[LISTEN, ("HTTP_PROXY_LB_UPSTREAM", "http://a.test")]);
        let errors = Source::new(None, mistyped).load().unwrap_err().to_string();
        assert!(
            errors.ends_with("did you mean HTTP_PROXY_LB_UPSTREAMS?"),
            "{errors}"
        );
        let named = Some("/nonexistent/c.yaml".into());
        let whole = Source::new(named, overrides(&[LISTEN, UPSTREAMS]));
        check(
            whole,
            "/nonexistent/c.yaml: no such file; one that is named must be there",
        );
    }

    #[test]
    fn a_file_that_cannot_be_looked_for_does_not_count_as_absent() {
        assert!(is_absent(Path::new("no such folder/config.yaml")));
        assert!(!is_absent(Path::new("Cargo.toml")));
        assert!(!is_absent(Path::new("Cargo.toml/config.yaml")));
    }

    #[test]
    fn a_file_that_is_mounted_by_itself_is_known() {
        let mounts = "22 1 8:1 / / rw - ext4 /dev/a rw\n\
                      36 22 8:1 /x /etc/my\\040relay/config.yaml ro - ext4 /dev/a rw\n";
        assert!(is_mount_point(
            Path::new("/etc/my relay/config.yaml"),
            mounts
        ));
        assert!(!is_mount_point(Path::new("/etc/config.yaml"), mounts));
        assert!(!is_mounted(Path::new("Cargo.toml")));
    }
}
