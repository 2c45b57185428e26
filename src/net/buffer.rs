//! Buffers for bytes on their way, from the system itself and at once back to it.
//!
//! A crowd that makes many threads copy at once needs many large buffers for a moment. An allocator that
//! has cut them out of a heap can hardly give them back: behind them there is some small block that stays.
//! So each is a mapping of its own, and gone when it is dropped; a few are kept in a pool, or every exchange
//! would have the system clear pages. Only what was once written to is resident.
//!
//! The system gives a process 65530 mappings, and a stack is one, too. So there are not too many of them;
//! what is beyond comes from the heap.
//!
//! What is short is held in the heap, exactly as long: a mapping is never less than a page.

use std::sync::atomic::{AtomicUsize, Ordering};

use memmap2::MmapMut;
use parking_lot::Mutex;

/// What one read of a head asks for, in bytes: with a body of 16 KiB behind it, as many uploads are.
pub const SMALL: usize = 20 * 1024;
/// What one read of bytes in bulk asks for.
pub const LARGE: usize = 128 * 1024;
/// From here on bytes are not held in the heap.
const MAPPED: usize = 16 * 1024;
/// Mappings that are in use or kept at the same time.
const MOST_MAPPINGS: usize = 16 * 1024;
/// Buffers of more than [`LARGE`] in use, beyond which less is moved at a time: what receivers do not take at
/// once is held in them.
pub(super) const MOST_LONG: usize = 8;
/// Small buffers kept for the next thread or connection.
const SPARE_SMALL: usize = 8;
/// Large buffers kept for the next bytes in bulk.
const SPARE_LARGE: usize = 4;

static POOLS: [BufferPool; 2] = [
    BufferPool::new(SMALL, SPARE_SMALL),
    BufferPool::new(LARGE, SPARE_LARGE),
];

/// Bytes, and room for more behind them.
#[derive(Debug, Default)]
pub struct Buffer {
    storage: Storage,
    /// How much of it is bytes. At most as much as there is.
    filled: usize,
}

#[derive(Debug)]
enum Storage {
    Heap(Vec<u8>),
    Mapped(Mapping),
}

impl Default for Storage {
    fn default() -> Self {
        Self::Heap(Vec::new())
    }
}

/// A mapping, counted.
#[derive(Debug)]
struct Mapping(MmapMut);

static MAPPINGS: AtomicUsize = AtomicUsize::new(0);
/// Those of more than [`LARGE`].
static LONG: AtomicUsize = AtomicUsize::new(0);

/// Whether there may be another buffer of more than [`LARGE`]. From the heap, where it would have to come
/// from when there are no mappings left, none may: it would not be counted.
pub(super) fn may_be_long() -> bool {
    LONG.load(Ordering::Relaxed) < MOST_LONG && MAPPINGS.load(Ordering::Relaxed) < MOST_MAPPINGS
}

impl Mapping {
    /// One of so many bytes, all zero. `None`: there are too many, or no memory is left.
    fn of(size: usize) -> Option<Self> {
        let below = |count: usize| (count < MOST_MAPPINGS).then_some(count + 1);
        MAPPINGS
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, below)
            .ok()?;
        match MmapMut::map_anon(size) {
            Ok(mapping) => {
                LONG.fetch_add(usize::from(size > LARGE), Ordering::Relaxed);
                Some(Self(mapping))
            }
            Err(_no_memory) => {
                MAPPINGS.fetch_sub(1, Ordering::Relaxed);
                None
            }
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        MAPPINGS.fetch_sub(1, Ordering::Relaxed);
        LONG.fetch_sub(usize::from(self.0.len() > LARGE), Ordering::Relaxed);
    }
}

/// Mappings of one size that are not in use.
#[derive(Debug)]
struct BufferPool {
    size: usize,
    most: usize,
    spare: Mutex<Vec<Mapping>>,
}

impl BufferPool {
    const fn new(size: usize, most: usize) -> Self {
        Self {
            size,
            most,
            spare: Mutex::new(Vec::new()),
        }
    }

    fn keep(&self, mapping: Mapping) {
        let mut spare = self.spare.lock();
        if spare.len() < self.most {
            spare.push(mapping);
        }
    }
}

impl Buffer {
    /// Room for at least so many bytes; for as many as a read asks for, if that is more.
    pub fn with_room(bytes: usize) -> Self {
        let pool = POOLS.iter().find(|pool| bytes <= pool.size);
        let spare = pool.and_then(|pool| pool.spare.lock().pop());
        let storage = match spare {
            Some(mapping) => Storage::Mapped(mapping),
            None => Storage::of(pool.map_or(bytes, |pool| pool.size)),
        };
        Self { storage, filled: 0 }
    }

    /// A copy of `bytes`, with no room behind them unless they are many.
    pub fn holding(bytes: &[u8]) -> Self {
        if bytes.len() < MAPPED {
            return Self {
                filled: bytes.len(),
                storage: Storage::Heap(bytes.to_vec()),
            };
        }
        let mut buffer = Self {
            storage: Storage::of(bytes.len()),
            filled: 0,
        };
        buffer.append(bytes);
        buffer
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        self.storage.whole().get(..self.filled).unwrap_or_default()
    }

    /// The same, to be changed in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let whole = self.storage.whole_mut();
        whole.get_mut(..self.filled).unwrap_or_default()
    }

    /// What can be written behind the bytes. They are what [`Buffer::extend`] says.
    pub fn room(&mut self) -> &mut [u8] {
        let whole = self.storage.whole_mut();
        whole.get_mut(self.filled..).unwrap_or_default()
    }

    /// So many bytes of the room are bytes now.
    pub fn extend(&mut self, count: usize) {
        self.filled = self.filled.saturating_add(count).min(self.size());
    }

    /// Writes as much of `bytes` behind the others as there is room for.
    pub fn append(&mut self, bytes: &[u8]) {
        let room = self.room();
        let count = bytes.len().min(room.len());
        let (room, _) = room.split_at_mut(count);
        let (bytes, _) = bytes.split_at(count);
        room.copy_from_slice(bytes);
        self.extend(count);
    }

    /// How many bytes there is memory for.
    pub fn size(&self) -> usize {
        self.storage.whole().len()
    }

    /// Forgets the first `count` bytes; the others move to the front.
    pub fn forget(&mut self, count: usize) {
        let count = count.min(self.filled);
        self.bytes_mut().copy_within(count.., 0);
        self.filled -= count;
    }

    /// Forgets all bytes; their memory stays.
    pub fn clear(&mut self) {
        self.filled = 0;
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Storage::Mapped(mapping) = std::mem::take(&mut self.storage)
            && let Some(pool) = POOLS.iter().find(|pool| pool.size == mapping.0.len())
        {
            pool.keep(mapping);
        }
    }
}

impl Storage {
    /// So many bytes; of the heap if there is no mapping to be had.
    fn of(size: usize) -> Self {
        match Mapping::of(size) {
            Some(mapping) => Self::Mapped(mapping),
            None => Self::Heap(vec![0; size]),
        }
    }

    fn whole(&self) -> &[u8] {
        match self {
            Self::Heap(bytes) => bytes,
            Self::Mapped(Mapping(bytes)) => bytes,
        }
    }

    fn whole_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Heap(bytes) => bytes,
            Self::Mapped(Mapping(bytes)) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_appended_is_there_and_what_is_forgotten_is_not() {
        let mut buffer = Buffer::with_room(1);
        assert_eq!((buffer.bytes(), buffer.size()), (&b""[..], SMALL));
        buffer.append(b"head|body");
        buffer.forget(5);
        assert_eq!(buffer.bytes(), b"body");
        buffer.room()[..2].copy_from_slice(b"!?");
        buffer.extend(1);
        assert_eq!(buffer.bytes(), b"body!");
        buffer.forget(usize::MAX);
        assert_eq!((buffer.bytes().len(), buffer.room().len()), (0, SMALL));
    }

    #[test]
    fn the_room_behind_the_bytes_is_as_much_as_was_asked_for_at_least() {
        for (wanted, size) in [
            (0, SMALL),
            (SMALL, SMALL),
            (SMALL + 1, LARGE),
            (LARGE + 1, LARGE + 1),
        ] {
            assert_eq!(Buffer::with_room(wanted).room().len(), size);
        }
    }

    #[test]
    fn what_is_held_takes_no_more_memory_than_it_needs() {
        for length in [0, 1, MAPPED - 1, MAPPED, LARGE + 7] {
            let bytes = vec![b'x'; length];
            let buffer = Buffer::holding(&bytes);
            assert_eq!((buffer.bytes(), buffer.size()), (&bytes[..], length));
        }
    }

    #[test]
    fn more_than_there_is_room_for_is_not_written() {
        let mut buffer = Buffer::holding(b"full");
        buffer.append(b"!");
        buffer.extend(1);
        assert_eq!(buffer.bytes(), b"full");
    }

    #[test]
    fn no_more_mappings_are_kept_than_are_worth_it() {
        let pool = BufferPool::new(4096, 2);
        for _ in 0..3 {
            pool.keep(Mapping::of(4096).unwrap());
        }
        assert_eq!(pool.spare.lock().len(), 2);
    }
}
