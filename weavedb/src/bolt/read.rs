//! From bytes to maps.

use std::collections::BTreeSet;

use super::{
    BUCKET_LEN, ELEMENT_BUCKET, ELEMENT_LEN, Entries, Error, FLAG_BRANCH, FLAG_LEAF, FLAG_META,
    MAGIC, MAX_PAGE_LEN, META_LEN, META_SUMMED_LEN, MIN_PAGE_LEN, Oddity, PAGE_HEADER_LEN, VERSION,
    checksum,
};

/// No tree is deeper: each level has two pages at least for each of the level above.
const MAX_DEPTH: usize = 64;

/// A database with at least one sound header.
#[derive(Debug)]
pub struct Database<'a> {
    file: &'a [u8],
    page_len: usize,
    /// Root page of the bucket of buckets.
    root: u64,
    transaction: u64,
    oddity: Option<Oddity>,
}

/// What counts of a header.
#[derive(Debug, Clone, Copy)]
struct Meta {
    page_len: usize,
    root: u64,
    transaction: u64,
}

/// A page whose elements are there.
#[derive(Debug, Clone, Copy)]
struct Page<'a> {
    /// For errors.
    id: u64,
    flags: u16,
    count: u16,
    /// From the first element on.
    content: &'a [u8],
}

#[derive(Debug, Clone, Copy)]
struct Element<'a> {
    flags: u32,
    key: &'a [u8],
    value: &'a [u8],
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_le_bytes(*bytes))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes(*bytes))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u64::from_le_bytes(*bytes))
}

/// `len` bytes from `at` on.
fn slice(bytes: &[u8], at: usize, len: usize) -> Option<&[u8]> {
    bytes.get(at..at.checked_add(len)?)
}

/// The header whose page starts at `at`; `Ok(None)` if there is none.
fn meta_at(file: &[u8], at: usize) -> Result<Option<Meta>, Error> {
    let read = || {
        let page = file.get(at..)?;
        let meta = slice(page, PAGE_HEADER_LEN, META_LEN)?;
        Some((u16_at(page, 8)?, meta, u32_at(meta, 0)?, u32_at(meta, 4)?))
    };
    let Some((flags, meta, magic, version)) = read() else {
        return Ok(None);
    };
    if magic == MAGIC.swap_bytes() {
        return Err(Error::ByteOrder);
    }
    if magic != MAGIC || flags != FLAG_META {
        return Ok(None);
    }
    let parse = || {
        let sum = u64_at(meta, META_SUMMED_LEN)?;
        let summed = meta.get(..META_SUMMED_LEN)?;
        // There were times without a checksum.
        if sum != 0 && sum != checksum(summed) {
            return None;
        }
        if version != VERSION {
            return Some(Err(Error::Version(version)));
        }
        let page_len = usize::try_from(u32_at(meta, 8)?).ok()?;
        let sound = page_len.is_power_of_two() && (MIN_PAGE_LEN..=MAX_PAGE_LEN).contains(&page_len);
        let (root, transaction) = (u64_at(meta, 16)?, u64_at(meta, 48)?);
        sound.then_some(Ok(Meta {
            page_len,
            root,
            transaction,
        }))
    };
    parse().transpose()
}

impl<'a> Database<'a> {
    /// Finds the header that counts.
    pub fn open(file: &'a [u8]) -> Result<Self, Error> {
        if file.is_empty() {
            return Err(Error::Empty);
        }
        let first = meta_at(file, 0)?;
        // Where the first one is lost, nothing tells where the second one is.
        let mut lens: Vec<usize> = (MIN_PAGE_LEN.trailing_zeros()..=MAX_PAGE_LEN.trailing_zeros())
            .map(|bits| 1 << bits)
            .collect();
        if let Some(first) = first {
            lens = vec![first.page_len];
        }
        let mut second = None;
        for len in lens {
            second = meta_at(file, len)?.filter(|meta| meta.page_len == len);
            if second.is_some() {
                break;
            }
        }
        let meta = match (first, second) {
            (Some(first), Some(second)) if second.transaction > first.transaction => second,
            (Some(meta), _) | (None, Some(meta)) => meta,
            (None, None) => return Err(Error::NoHeader),
        };
        let lost = first.is_none() || second.is_none();
        Ok(Self {
            file,
            page_len: meta.page_len,
            root: meta.root,
            transaction: meta.transaction,
            oddity: lost.then_some(Oddity::HeaderLost),
        })
    }

    /// Number of the last transaction: higher, the later.
    pub fn transaction(&self) -> u64 {
        self.transaction
    }

    /// What is odd about it.
    pub fn oddity(&self) -> Option<Oddity> {
        self.oddity
    }

    /// What is in the bucket of this name, if there is one. Buckets within it are left out.
    pub fn bucket(&self, name: &[u8]) -> Result<Option<Entries<'a>>, Error> {
        let mut walk = Walk {
            database: self,
            seen: BTreeSet::new(),
            last: None,
            found: Vec::new(),
        };
        walk.pages(self.root, 0)?;
        let bucket = walk.found.iter().find(|element| element.key == name);
        let Some(bucket) = bucket.filter(|element| element.flags & ELEMENT_BUCKET != 0) else {
            return Ok(None);
        };
        let (root, inline) = u64_at(bucket.value, 0)
            .zip(bucket.value.get(BUCKET_LEN..))
            .ok_or(Error::Page {
                page: self.root,
                what: "a bucket of too few bytes",
            })?;
        walk.found.clear();
        walk.last = None;
        if root == 0 {
            walk.leaf(page(self.root, inline)?)?;
        } else {
            walk.pages(root, 0)?;
        }
        let values = walk.found.iter();
        let values = values.filter(|element| element.flags & ELEMENT_BUCKET == 0);
        Ok(Some(
            values.map(|element| (element.key, element.value)).collect(),
        ))
    }

    /// A page of the file, with those that belong to it.
    fn page(&self, id: u64) -> Result<Page<'a>, Error> {
        let short = Error::Short { page: id };
        let start = usize::try_from(id).ok();
        let start = start.and_then(|id| id.checked_mul(self.page_len));
        let rest = start.and_then(|start| self.file.get(start..));
        let rest = rest.filter(|rest| rest.len() >= self.page_len);
        let rest = rest.ok_or(short)?;
        let overflow = u32_at(rest, 12).ok_or(short)?;
        let len = usize::try_from(u64::from(overflow) + 1).ok();
        let len = len.and_then(|count| count.checked_mul(self.page_len));
        let bytes = len.and_then(|len| rest.get(..len)).ok_or(short)?;
        if u64_at(bytes, 0) != Some(id) {
            return Err(Error::Page {
                page: id,
                what: "it says that it is another",
            });
        }
        page(id, bytes)
    }
}

/// The page in `bytes`, which are all that it has.
fn page(id: u64, bytes: &[u8]) -> Result<Page<'_>, Error> {
    let read = || {
        Some(Page {
            id,
            flags: u16_at(bytes, 8)?,
            count: u16_at(bytes, 10)?,
            content: bytes.get(PAGE_HEADER_LEN..)?,
        })
    };
    let what = "it has no room for its elements";
    let room = |page: &Page<'_>| page.content.len() >= usize::from(page.count) * ELEMENT_LEN;
    read().filter(room).ok_or(Error::Page { page: id, what })
}

impl<'a> Page<'a> {
    fn damaged(&self, what: &'static str) -> Error {
        Error::Page {
            page: self.id,
            what,
        }
    }

    /// The element of a leaf with this index.
    fn leaf_element(&self, index: u16) -> Option<Element<'a>> {
        let bytes = self.content.get(usize::from(index) * ELEMENT_LEN..)?;
        let len_at = |at| usize::try_from(u32_at(bytes, at)?).ok();
        let (position, key_len, value_len) = (len_at(4)?, len_at(8)?, len_at(12)?);
        Some(Element {
            flags: u32_at(bytes, 0)?,
            key: slice(bytes, position, key_len)?,
            value: slice(bytes, position.checked_add(key_len)?, value_len)?,
        })
    }

    /// The page that the element of a branch with this index leads to.
    fn branch_element(&self, index: u16) -> Option<u64> {
        let bytes = self.content.get(usize::from(index) * ELEMENT_LEN..)?;
        u64_at(bytes, 8)
    }
}

/// One way through the tree.
struct Walk<'d, 'a> {
    database: &'d Database<'a>,
    /// Pages that have been visited, over all buckets.
    seen: BTreeSet<u64>,
    /// Key of the last element of the current bucket.
    last: Option<&'a [u8]>,
    /// Elements of the current bucket.
    found: Vec<Element<'a>>,
}

impl<'a> Walk<'_, 'a> {
    fn pages(&mut self, id: u64, depth: usize) -> Result<(), Error> {
        let page = self.database.page(id)?;
        if !self.seen.insert(id) {
            return Err(page.damaged("two others lead to it"));
        }
        match page.flags {
            FLAG_LEAF => self.leaf(page),
            FLAG_BRANCH if depth >= MAX_DEPTH => Err(page.damaged("it is too deep in the tree")),
            FLAG_BRANCH if page.count == 0 => Err(page.damaged("a branch that leads nowhere")),
            FLAG_BRANCH => {
                for index in 0..page.count {
                    let child = page.branch_element(index);
                    let child = child.ok_or_else(|| page.damaged("an element outside of it"))?;
                    self.pages(child, depth + 1)?;
                }
                Ok(())
            }
            _ => Err(page.damaged("it is neither branch nor leaf")),
        }
    }

    fn leaf(&mut self, page: Page<'a>) -> Result<(), Error> {
        if page.flags != FLAG_LEAF {
            return Err(page.damaged("it should be a leaf"));
        }
        let mut room = page.content.len();
        for index in 0..page.count {
            let element = page.leaf_element(index);
            let element = element.ok_or_else(|| page.damaged("an element outside of it"))?;
            // Sound ones do not overlap; those that do could be much more than the file.
            room = (room.checked_sub(ELEMENT_LEN + element.key.len()))
                .and_then(|room| room.checked_sub(element.value.len()))
                .ok_or_else(|| page.damaged("elements that overlap"))?;
            if self.last.is_some_and(|last| last >= element.key) {
                return Err(page.damaged("keys that do not ascend"));
            }
            self.last = Some(element.key);
            self.found.push(element);
        }
        Ok(())
    }
}
