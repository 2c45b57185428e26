//! A list that grows and shrinks by pages.
//!
//! One table as long as a crowd of connections is a large piece of memory that grows by being copied, and
//! stays until the last of them has left. glibc also takes the largest piece that was ever freed as the
//! measure of how much each of its heaps may keep; a page is below what is measured.

/// Items on a page.
const PAGE: usize = 512;

/// The list.
#[derive(Debug)]
pub(super) struct Pages<T> {
    /// All but the last are full; none is empty.
    pages: Vec<Vec<T>>,
}

impl<T> Default for Pages<T> {
    fn default() -> Self {
        Self { pages: Vec::new() }
    }
}

impl<T> Pages<T> {
    /// How many items there are.
    pub(super) fn len(&self) -> usize {
        let full = self.pages.len().saturating_sub(1);
        full * PAGE + self.pages.last().map_or(0, Vec::len)
    }

    /// The item at `index`.
    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        self.pages.get_mut(index / PAGE)?.get_mut(index % PAGE)
    }

    /// Adds an item at the end.
    pub(super) fn push(&mut self, item: T) {
        match self.pages.last_mut() {
            Some(page) if page.len() < PAGE => page.push(item),
            Some(_) | None => {
                let mut page = Vec::with_capacity(PAGE);
                page.push(item);
                self.pages.push(page);
            }
        }
    }

    /// Takes the last item away if it is `chosen`.
    pub(super) fn pop_if(&mut self, chosen: impl FnOnce(&T) -> bool) -> Option<T> {
        let page = self.pages.last_mut()?;
        let item = page.pop_if(|item| chosen(item))?;
        if page.is_empty() {
            self.pages.pop();
        }
        Some(item)
    }

    /// All items, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.pages.iter().flatten()
    }

    /// All items, in order.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.pages.iter_mut().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_found_on_whatever_page_they_are() {
        let mut list = Pages::default();
        let count = 2 * PAGE + 1;
        for number in 0..count {
            assert_eq!(list.len(), number);
            list.push(number);
        }
        for index in [0, PAGE - 1, PAGE, count - 1] {
            assert_eq!(list.get_mut(index).copied(), Some(index));
        }
        assert_eq!(list.get_mut(count), None);
        assert!(list.iter().copied().eq(0..count));
    }

    #[test]
    fn a_page_without_items_is_given_back() {
        let mut list = Pages::default();
        for number in 0..=PAGE {
            list.push(number);
        }
        assert_eq!(list.pop_if(|number| *number == 0), None, "not the last");
        assert_eq!(list.pop_if(|number| *number == PAGE), Some(PAGE));
        assert_eq!((list.len(), list.pages.len()), (PAGE, 1));
        list.push(7);
        assert_eq!(list.get_mut(PAGE).copied(), Some(7));
    }
}
