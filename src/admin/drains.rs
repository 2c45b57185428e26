//! Drains that survive a restart: a file with the names of the upstreams that operators have drained, in the
//! folder that the service manager keeps for the service.
//!
//! Without such a folder nothing is written or read. A file that is of no use is a warning: the relay starts.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use crate::balance::history::EventKind;
use crate::balance::pool::Pool;
use crate::relay::unix_ms;

/// Its name in that folder.
const NAME: &str = "drained";

/// Its first line; the names follow, one a line.
const FIRST_LINE: &str = "# Upstreams that operators of http-proxy-lb have drained";

/// The largest that is read, in bytes: ten thousand of the longest names have room in it.
const MOST: u64 = 2 * 1024 * 1024;

/// Where drains are kept.
#[derive(Debug, Default)]
pub struct DrainFile {
    folder: Option<PathBuf>,
}

impl DrainFile {
    /// In the folder that `STATE_DIRECTORY` names (the first, of several).
    pub fn of_environment() -> Self {
        let named = std::env::var_os("STATE_DIRECTORY").unwrap_or_default();
        let folder = std::env::split_paths(&named).next();
        Self::in_folder(folder.unwrap_or_default())
    }

    /// In this folder; nowhere if it is no absolute path.
    pub fn in_folder(folder: PathBuf) -> Self {
        Self {
            folder: Some(folder).filter(|folder| folder.is_absolute()),
        }
    }

    /// Drains the upstreams of `pool` that were drained when the file was written.
    pub fn restore(&self, pool: &Pool) {
        let Some(path) = self.folder.as_ref().map(|folder| folder.join(NAME)) else {
            return;
        };
        let names = match read(&path) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                let path = path.display();
                log::warn!("{path}: nobody is drained as before, for it is of no use: {error}");
                return;
            }
        };
        for name in names.lines() {
            let Some(upstream) = pool.find(name) else {
                log::info!("upstream {name} was drained before, and is in the file no more");
                continue;
            };
            upstream.vitals().drain();
            let text = format!("upstream {name} is drained, as it was before the restart");
            log::info!("{text}");
            let history = pool.history();
            history.add(unix_ms(), EventKind::Drained, Some(name), &text);
        }
    }

    /// Writes which upstreams of `pool` are drained now.
    pub fn keep(&self, pool: &Pool) {
        let Some(folder) = &self.folder else {
            return;
        };
        let mut text = format!("{FIRST_LINE}\n");
        let upstreams = pool.upstreams().iter();
        for upstream in upstreams.filter(|upstream| upstream.vitals().is_drained()) {
            text.push_str(&upstream.spec.name);
            text.push('\n');
        }
        if let Err(error) = write(folder, &text) {
            let folder = folder.display();
            log::warn!("{folder}: what is drained will be forgotten at a restart: {error}");
        }
    }
}

/// The names, one a line.
fn read(path: &Path) -> io::Result<String> {
    // The open of a pipe would wait for a writer.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut text = String::new();
    File::open(path)?.take(MOST + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MOST {
        return Err(io::Error::other("it is too large"));
    }
    let names = text.strip_prefix(FIRST_LINE);
    let names = names.and_then(|names| names.strip_prefix('\n'));
    let foreign = || io::Error::other("it was written by something else");
    names.map(str::to_owned).ok_or_else(foreign)
}

/// Puts `text` in the place of what was there, at once.
fn write(folder: &Path, text: &str) -> io::Result<()> {
    let new = folder.join(format!("{NAME}.new"));
    let mut file = File::create(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, folder.join(NAME))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    /// A folder that is removed when dropped.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let unique = format!("http-proxy-lb-drains-{}-{name}", std::process::id());
            let path = std::env::temp_dir().join(unique);
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn file(&self) -> DrainFile {
            DrainFile::in_folder(self.0.clone())
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn pool(names: &[&str]) -> Pool {
        let upstream = |(at, name)| format!("{{url: 'http://u{at}.test:1', name: '{name}'}}");
        let upstreams: Vec<_> = names.iter().enumerate().map(upstream).collect();
        let text = format!("listen: 127.0.0.1:0\nupstream: [{}]", upstreams.join(", "));
        Pool::new(config::parse(&text, "test.yaml").unwrap().upstreams)
    }

    fn drained(pool: &Pool) -> Vec<&str> {
        let all = pool.upstreams().iter();
        all.filter(|one| one.vitals().is_drained())
            .map(|one| one.spec.name.as_str())
            .collect()
    }

    #[test]
    fn what_is_drained_is_so_after_a_restart_until_it_is_enabled() {
        let folder = Folder::new("kept");
        let before = pool(&["a", "b", "# c"]);
        for name in ["a", "# c"] {
            before.find(name).unwrap().vitals().drain();
            folder.file().keep(&before);
        }
        let after = pool(&["# c", "b", "new"]);
        folder.file().restore(&after);
        assert_eq!(drained(&after), ["# c"]);
        assert_eq!(after.history().events().len(), 1);
        after.find("# c").unwrap().vitals().enable();
        folder.file().keep(&after);
        let later = pool(&["a", "# c"]);
        folder.file().restore(&later);
        assert_eq!(drained(&later), [""; 0]);
    }

    #[test]
    fn a_file_that_is_of_no_use_drains_nobody_and_is_written_anew() {
        let folder = Folder::new("broken");
        let large = format!("{FIRST_LINE}\n{}", "a\n".repeat(2 * 1024 * 1024));
        let binary = [FIRST_LINE.as_bytes(), b"\na\n\xff\n"].concat();
        for content in [b"a\n".to_vec(), b"".to_vec(), large.into_bytes(), binary] {
            fs::write(folder.0.join(NAME), content).unwrap();
            let pool = pool(&["a"]);
            folder.file().restore(&pool);
            assert_eq!(drained(&pool), [""; 0]);
        }
        let drains = pool(&["a"]);
        drains.find("a").unwrap().vitals().drain();
        folder.file().keep(&drains);
        let after = pool(&["a"]);
        folder.file().restore(&after);
        assert_eq!(drained(&after), ["a"]);
    }

    #[test]
    fn what_is_in_its_place_or_not_there_holds_up_nothing() {
        let folder = Folder::new("place");
        fs::create_dir(folder.0.join(NAME)).unwrap();
        let pool = pool(&["a"]);
        pool.find("a").unwrap().vitals().drain();
        let gone = DrainFile::in_folder(folder.0.join("gone"));
        for file in [folder.file(), gone, DrainFile::default()] {
            file.restore(&pool);
            file.keep(&pool);
        }
        let nowhere = DrainFile::in_folder("relative".into());
        nowhere.keep(&pool);
        assert!(!Path::new("relative").exists());
    }
}
