//! Memory for bytes on their way, from the system itself and at once back to it.
//!
//! A crowd that makes many threads copy at once needs many large buffers for a moment. An allocator that
//! has cut them out of a heap can hardly give them back: behind them there is some small piece that stays.
//! So each is a mapping of its own, and gone when it is dropped; a few are kept, or every exchange would
//! have the system clear pages. Only what was once written to is resident.
//!
//! The system gives a process 65530 mappings, and a stack is one, too. So there are not too many of them;
//! what is beyond comes from the heap.
//!
//! What is short is held in a piece of the heap, exactly as long: a mapping is never less than a page.

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
const MOST_PIECES: usize = 16 * 1024;
/// Small pieces kept for the next thread or connection.
const SPARE_SMALL: usize = 8;
/// Large pieces kept for the next bytes in bulk.
const SPARE_LARGE: usize = 4;

static SPARES: [Spares; 2] = [
    Spares::new(SMALL, SPARE_SMALL),
    Spares::new(LARGE, SPARE_LARGE),
];

/// Bytes, and room for more behind them.
#[derive(Debug, Default)]
pub struct Memory {
    place: Place,
    /// How much of it is bytes. At most as much as there is.
    filled: usize,
}

#[derive(Debug)]
enum Place {
    Heap(Vec<u8>),
    System(Piece),
}

impl Default for Place {
    fn default() -> Self {
        Self::Heap(Vec::new())
    }
}

/// A mapping, counted.
#[derive(Debug)]
struct Piece(MmapMut);

static PIECES: AtomicUsize = AtomicUsize::new(0);

impl Piece {
    /// One of so many bytes, all zero. `None`: there are too many, or no memory is left.
    fn of(size: usize) -> Option<Self> {
        let below = |count: usize| (count < MOST_PIECES).then_some(count + 1);
        PIECES
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, below)
            .ok()?;
        match MmapMut::map_anon(size) {
            Ok(mapping) => Some(Self(mapping)),
            Err(_no_memory) => {
                PIECES.fetch_sub(1, Ordering::Relaxed);
                None
            }
        }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        PIECES.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Pieces of one size that nobody uses.
#[derive(Debug)]
struct Spares {
    size: usize,
    most: usize,
    pieces: Mutex<Vec<Piece>>,
}

impl Spares {
    const fn new(size: usize, most: usize) -> Self {
        Self {
            size,
            most,
            pieces: Mutex::new(Vec::new()),
        }
    }

    fn keep(&self, piece: Piece) {
        let mut pieces = self.pieces.lock();
        if pieces.len() < self.most {
            pieces.push(piece);
        }
    }
}

impl Memory {
    /// Room for at least so many bytes; for as many as a read asks for, if that is more.
    pub fn with_room(bytes: usize) -> Self {
        let spares = SPARES.iter().find(|spares| bytes <= spares.size);
        let spare = spares.and_then(|spares| spares.pieces.lock().pop());
        let place = match spare {
            Some(piece) => Place::System(piece),
            None => Place::of(spares.map_or(bytes, |spares| spares.size)),
        };
        Self { place, filled: 0 }
    }

    /// A copy of `bytes`, with no room behind them unless they are many.
    pub fn holding(bytes: &[u8]) -> Self {
        if bytes.len() < MAPPED {
            return Self {
                filled: bytes.len(),
                place: Place::Heap(bytes.to_vec()),
            };
        }
        let mut memory = Self {
            place: Place::of(bytes.len()),
            filled: 0,
        };
        memory.append(bytes);
        memory
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        self.place.whole().get(..self.filled).unwrap_or_default()
    }

    /// The same, to be changed in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let whole = self.place.whole_mut();
        whole.get_mut(..self.filled).unwrap_or_default()
    }

    /// What can be written behind the bytes. They are what [`Memory::extend`] says.
    pub fn room(&mut self) -> &mut [u8] {
        let whole = self.place.whole_mut();
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
        self.place.whole().len()
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

impl Drop for Memory {
    fn drop(&mut self) {
        if let Place::System(piece) = std::mem::take(&mut self.place)
            && let Some(spares) = SPARES.iter().find(|spares| spares.size == piece.0.len())
        {
            spares.keep(piece);
        }
    }
}

impl Place {
    /// So many bytes; of the heap if there is no mapping to be had.
    fn of(size: usize) -> Self {
        match Piece::of(size) {
            Some(piece) => Self::System(piece),
            None => Self::Heap(vec![0; size]),
        }
    }

    fn whole(&self) -> &[u8] {
        match self {
            Self::Heap(piece) => piece,
            Self::System(Piece(piece)) => piece,
        }
    }

    fn whole_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Heap(piece) => piece,
            Self::System(Piece(piece)) => piece,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_appended_is_there_and_what_is_forgotten_is_not() {
        let mut memory = Memory::with_room(1);
        assert_eq!((memory.bytes(), memory.size()), (&b""[..], SMALL));
        memory.append(b"head|body");
        memory.forget(5);
        assert_eq!(memory.bytes(), b"body");
        memory.room()[..2].copy_from_slice(b"!?");
        memory.extend(1);
        assert_eq!(memory.bytes(), b"body!");
        memory.forget(usize::MAX);
        assert_eq!((memory.bytes().len(), memory.room().len()), (0, SMALL));
    }

    #[test]
    fn the_room_behind_the_bytes_is_as_much_as_was_asked_for_at_least() {
        for (wanted, size) in [
            (0, SMALL),
            (SMALL, SMALL),
            (SMALL + 1, LARGE),
            (LARGE + 1, LARGE + 1),
        ] {
            assert_eq!(Memory::with_room(wanted).room().len(), size);
        }
    }

    #[test]
    fn what_is_held_takes_no_more_memory_than_it_needs() {
        for length in [0, 1, MAPPED - 1, MAPPED, LARGE + 7] {
            let bytes = vec![b'x'; length];
            let memory = Memory::holding(&bytes);
            assert_eq!((memory.bytes(), memory.size()), (&bytes[..], length));
        }
    }

    #[test]
    fn more_than_there_is_room_for_is_not_written() {
        let mut memory = Memory::holding(b"full");
        memory.append(b"!");
        memory.extend(1);
        assert_eq!(memory.bytes(), b"full");
    }

    #[test]
    fn no_more_pieces_are_kept_than_are_worth_it() {
        let spares = Spares::new(4096, 2);
        for _ in 0..3 {
            spares.keep(Piece::of(4096).unwrap());
        }
        assert_eq!(spares.pieces.lock().len(), 2);
    }
}
