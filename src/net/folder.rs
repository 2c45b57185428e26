//! A private folder for Unix sockets, and what is left of those of processes that were killed.
//!
//! Where it is made is mostly `/tmp`, where others have files of any name. So what is there is taken for
//! ours only if this user owns it and no other can look into it, nothing is reached through a link,
//! and only sockets with our kind of name are removed from it.

use std::fs::{self, DirBuilder, File};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, statat, unlinkat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, sockopt};

use super::socket;

/// What the names of all of them begin with; 16 hexadecimal digits follow.
const NAME: &str = "http-proxy-lb-";
/// The longest path of a Unix socket (unix(7)), without its end.
const LONGEST_PATH: usize = 107;
/// One that was changed so lately may be that of a process that is just starting.
const STARTING: Duration = Duration::from_secs(60);
/// Names that are looked at, and sockets that are expected, at most: a start must not take long.
const MOST: (usize, usize) = (10_000, 100);
/// How long it may take to find out whether a process listens.
const PATIENCE: Duration = Duration::from_millis(1);

/// A folder that no other user can look into; removed with all that is in it when dropped.
#[derive(Debug)]
pub struct SocketFolder {
    path: PathBuf,
    /// This process's user.
    owner: u32,
}

impl SocketFolder {
    /// An empty one, where the system keeps such things.
    ///
    /// # Errors
    /// When there is no place for it.
    pub fn make() -> io::Result<Self> {
        let places = ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"]
            .into_iter()
            .filter_map(std::env::var_os)
            .map(PathBuf::from)
            .filter(|place| place.is_absolute())
            .chain([std::env::temp_dir(), "/tmp".into(), "/dev/shm".into()]);
        let mut said = io::Error::from(io::ErrorKind::NotFound);
        for place in places {
            // The name of a socket follows.
            if place.as_os_str().len() + NAME.len() + 37 > LONGEST_PATH {
                continue;
            }
            match Self::make_in(&place) {
                Ok(folder) => return Ok(folder),
                Err(error) => said = error,
            }
        }
        Err(said)
    }

    fn make_in(place: &Path) -> io::Result<Self> {
        let random = RandomState::new().hash_one(std::process::id());
        let path = place.join(format!("{NAME}{random:016x}"));
        DirBuilder::new().mode(0o700).create(&path)?;
        let owner = fs::symlink_metadata(&path)?.uid();
        Ok(Self { path, owner })
    }

    /// Where the socket with this number is.
    pub fn socket(&self, number: u64) -> PathBuf {
        self.path.join(number.to_string())
    }

    /// Whether it is there, and made by this user: the maker of another one would answer for us.
    pub fn is_ours(&self) -> bool {
        fs::symlink_metadata(&self.path)
            .is_ok_and(|it| it.is_dir() && it.uid() == self.owner && it.mode() % 0o100 == 0)
    }

    /// Removes those beside it on whose sockets no process listens any more: one that is killed leaves
    /// its own behind.
    pub fn tidy(&self) {
        let place = self.path.parent().unwrap_or(Path::new("/"));
        let entries = fs::read_dir(place).into_iter().flatten().take(MOST.0);
        for path in entries.flatten().map(|entry| entry.path()) {
            if !has_such_a_name(&path) || path == self.path {
                continue;
            }
            match self.remove_if_left(&path) {
                Ok(()) => log::debug!("{} was left behind, and is removed", path.display()),
                Err(why) => log::trace!("{} stays: {why}", path.display()),
            }
        }
    }

    /// Removes one of this user and program, unless its process may be about to listen, or listens. The
    /// error says why it stays.
    fn remove_if_left(&self, path: &Path) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = File::from(openat(CWD, path, flags, Mode::empty())?);
        let about = folder.metadata()?;
        if about.uid() != self.owner || about.mode() % 0o100 != 0 {
            return Err(io::Error::other("it is not ours"));
        }
        let age = SystemTime::now().duration_since(about.modified()?);
        if age.is_ok_and(|age| age < STARTING) {
            return Err(io::Error::other("it is new"));
        }
        let mut sockets = Vec::new();
        for entry in Dir::read_from(&folder)? {
            let name = entry?.file_name().to_owned();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let mode = statat(&folder, &name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode;
            let is_ours = name.to_bytes().iter().all(u8::is_ascii_digit)
                && FileType::from_raw_mode(mode).is_socket();
            if !is_ours || sockets.len() >= MOST.1 {
                return Err(io::Error::other("it is not ours"));
            }
            sockets.push(name);
        }
        for name in &sockets {
            // What another user may have put at this path by now is only asked.
            let path = path.join(name.to_str().unwrap_or_default());
            if may_be_listened_to(&path)? {
                return Err(io::Error::other("it is in use"));
            }
        }
        for name in &sockets {
            unlinkat(&folder, name, AtFlags::empty())?;
        }
        // Only an empty one, and no link.
        fs::remove_dir(path)
    }
}

impl Drop for SocketFolder {
    fn drop(&mut self) {
        if !self.is_ours() {
            return;
        }
        if let Err(error) = fs::remove_dir_all(&self.path) {
            log::debug!("{} was not removed: {error}", self.path.display());
        }
    }
}

fn has_such_a_name(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let digits = name.and_then(|name| name.strip_prefix(NAME));
    digits.is_some_and(|digits| {
        digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

/// Whether a process listens there, or may: only a refusal says that none does.
fn may_be_listened_to(path: &Path) -> io::Result<bool> {
    let probe = socket::open(AddressFamily::UNIX)?;
    // It is one for connecting, too, where the listener has no room.
    sockopt::set_socket_timeout(&probe, sockopt::Timeout::Send, Some(PATIENCE))?;
    let asked = rustix::net::connect(&probe, &SocketAddrUnix::new(path)?);
    Ok(!matches!(asked, Err(Errno::CONNREFUSED | Errno::NOENT)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A place where no other process makes folders.
    fn place() -> SocketFolder {
        SocketFolder::make().unwrap()
    }

    /// What a killed process leaves in `place`, a while ago.
    fn left_in(place: &SocketFolder) -> PathBuf {
        let folder = SocketFolder::make_in(&place.path).unwrap();
        drop(UnixListener::bind(folder.socket(1)).unwrap());
        let random = RandomState::new().hash_one(place.owner);
        let path = place.path.join(format!("{NAME}{random:016x}"));
        // Under another name, it is not removed when it is dropped.
        fs::rename(&folder.path, &path).unwrap();
        age(&path);
        path
    }

    fn age(path: &Path) {
        let long_ago = SystemTime::now() - STARTING * 2;
        File::open(path).unwrap().set_modified(long_ago).unwrap();
    }

    #[test]
    fn a_folder_that_somebody_else_may_have_made_is_not_used() {
        let folder = SocketFolder::make().unwrap();
        assert!(folder.is_ours());
        fs::set_permissions(&folder.path, PermissionsExt::from_mode(0o755)).unwrap();
        assert!(!folder.is_ours(), "open to others");
        fs::remove_dir(&folder.path).unwrap();
        assert!(!folder.is_ours(), "gone");
        let elsewhere = SocketFolder::make().unwrap();
        symlink(&elsewhere.path, &folder.path).unwrap();
        assert!(!folder.is_ours(), "a link");
        fs::remove_file(&folder.path).unwrap();
        let foreign = SocketFolder {
            path: elsewhere.path.clone(),
            owner: elsewhere.owner + 1,
        };
        assert!(!foreign.is_ours(), "another user's");
    }

    #[test]
    fn what_a_killed_process_left_is_removed() {
        let place = place();
        let left = left_in(&place);
        let own = SocketFolder::make_in(&place.path).unwrap();
        own.tidy();
        assert!(!left.exists());
        assert!(own.is_ours());
    }

    #[test]
    fn what_somebody_uses_or_just_made_stays() {
        let place = place();
        let (used, new) = (left_in(&place), left_in(&place));
        let listener = UnixListener::bind(used.join("2")).unwrap();
        age(&used);
        File::open(&new)
            .unwrap()
            .set_modified(SystemTime::now())
            .unwrap();
        SocketFolder::make_in(&place.path).unwrap().tidy();
        assert!(used.join("1").exists() && new.join("1").exists());
        drop(listener);
        SocketFolder::make_in(&place.path).unwrap().tidy();
        assert!(!used.exists());
    }

    #[test]
    fn what_may_be_another_programs_stays() {
        let place = place();
        let named = place.path.join("http-proxy-lb-notes");
        fs::rename(left_in(&place), &named).unwrap();
        let open = left_in(&place);
        fs::set_permissions(&open, PermissionsExt::from_mode(0o750)).unwrap();
        let with_file = left_in(&place);
        fs::write(with_file.join("3"), "").unwrap();
        age(&with_file);
        let elsewhere = SocketFolder::make().unwrap();
        let target = left_in(&elsewhere);
        let link = place.path.join(format!("{NAME}0123456789abcdef"));
        symlink(&target, &link).unwrap();
        let own = SocketFolder::make_in(&place.path).unwrap();
        own.tidy();
        for path in [&named, &open, &with_file, &target] {
            assert!(path.join("1").exists(), "{}", path.display());
        }
        let foreign = left_in(&place);
        let (path, owner) = (own.path.clone(), own.owner + 1);
        let other = SocketFolder { path, owner };
        other.tidy();
        assert!(foreign.exists(), "another user's");
    }
}
