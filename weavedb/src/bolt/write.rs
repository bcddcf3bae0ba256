//! From a map to bytes.

use std::collections::BTreeMap;

use thiserror::Error;

use super::{
    BUCKET_LEN, ELEMENT_BUCKET, ELEMENT_LEN, FLAG_FREE_LIST, FLAG_LEAF, FLAG_META, MAGIC,
    MAX_PAGE_LEN, MIN_PAGE_LEN, PAGE_HEADER_LEN, VERSION, checksum,
};

/// The length of pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageLen(u32);

impl PageLen {
    /// That of most kernels.
    pub const USUAL: Self = Self(4096);

    /// A power of two from 1024 to 65536.
    pub fn new(len: usize) -> Option<Self> {
        let sound = len.is_power_of_two() && (MIN_PAGE_LEN..=MAX_PAGE_LEN).contains(&len);
        let len = u32::try_from(len).ok()?;
        sound.then_some(Self(len))
    }

    fn bytes(self) -> usize {
        // At most 65536.
        self.0 as usize
    }
}

/// More than the format has room for in one page: 65535 keys, or 2 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("too much for one page of a bolt database")]
pub struct TooBig;

/// Most bytes of a leaf: as many as the original maps into memory at a time.
const MAX_LEAF_LEN: usize = 1 << 31;

const FREE_LIST: u64 = 2;
const ROOT: u64 = 3;
const BUCKET_ROOT: u64 = 4;

/// A database with one bucket, as if the `transaction` with this number had been the last.
///
/// Its pages: two headers, the empty list of free pages, the root with the bucket's name, and one
/// leaf, as long as needed, with all that is in the bucket.
pub fn encode(
    page_len: PageLen,
    transaction: u64,
    bucket: &[u8],
    values: &BTreeMap<Vec<u8>, Vec<u8>>,
) -> Result<Vec<u8>, TooBig> {
    let mut value = [0; BUCKET_LEN];
    value
        .iter_mut()
        .zip(BUCKET_ROOT.to_le_bytes())
        .for_each(|(to, from)| *to = from);
    let root = leaf(
        page_len,
        ROOT,
        [(ELEMENT_BUCKET, bucket, &value[..])].into_iter(),
    )?;
    if root.len() != page_len.bytes() {
        return Err(TooBig);
    }
    let elements = values.iter().map(|(key, value)| (0, &key[..], &value[..]));
    let leaf = leaf(page_len, BUCKET_ROOT, elements)?;
    let page_count = BUCKET_ROOT + (leaf.len() / page_len.bytes()) as u64;
    let mut file = Vec::with_capacity(leaf.len() + 4 * page_len.bytes());
    let before = transaction.saturating_sub(1);
    let mut transactions = [before, transaction.max(1)];
    // They take turns: the even ones are in page 0.
    transactions.sort_by_key(|number| number % 2);
    for (page, transaction) in (0_u64..).zip(transactions) {
        file.extend(meta(page_len, page, page_count, transaction));
    }
    file.extend(page(page_len, FREE_LIST, FLAG_FREE_LIST, 0, &[])?);
    file.extend(root);
    file.extend(leaf);
    Ok(file)
}

/// A page with as many behind it as `content` needs.
fn page(
    page_len: PageLen,
    id: u64,
    flags: u16,
    count: u16,
    content: &[u8],
) -> Result<Vec<u8>, TooBig> {
    let page_count = (PAGE_HEADER_LEN + content.len()).div_ceil(page_len.bytes());
    let overflow = u32::try_from(page_count - 1).map_err(|_| TooBig)?;
    let mut page = Vec::with_capacity(page_count * page_len.bytes());
    page.extend(id.to_le_bytes());
    page.extend(flags.to_le_bytes());
    page.extend(count.to_le_bytes());
    page.extend(overflow.to_le_bytes());
    page.extend(content);
    page.resize(page_count * page_len.bytes(), 0);
    Ok(page)
}

fn leaf<'a>(
    page_len: PageLen,
    id: u64,
    elements: impl ExactSizeIterator<Item = (u32, &'a [u8], &'a [u8])>,
) -> Result<Vec<u8>, TooBig> {
    let count = u16::try_from(elements.len()).map_err(|_| TooBig)?;
    let table_len = usize::from(count) * ELEMENT_LEN;
    let (mut table, mut data) = (Vec::with_capacity(table_len), Vec::<u8>::new());
    for (flags, key, value) in elements {
        let position = table_len - table.len() + data.len();
        table.extend(flags.to_le_bytes());
        for number in [position, key.len(), value.len()] {
            let number = u32::try_from(number).map_err(|_| TooBig)?;
            table.extend(number.to_le_bytes());
        }
        data.extend(key);
        data.extend(value);
        if data.len() > MAX_LEAF_LEN {
            return Err(TooBig);
        }
    }
    table.extend(data);
    page(page_len, id, FLAG_LEAF, count, &table)
}

fn meta(page_len: PageLen, page: u64, page_count: u64, transaction: u64) -> Vec<u8> {
    let mut meta = Vec::new();
    for number in [MAGIC, VERSION, page_len.0, 0] {
        meta.extend(number.to_le_bytes());
    }
    for number in [ROOT, 0, FREE_LIST, page_count, transaction] {
        meta.extend(number.to_le_bytes());
    }
    meta.extend(checksum(&meta).to_le_bytes());
    let mut bytes = Vec::with_capacity(page_len.bytes());
    bytes.extend(page.to_le_bytes());
    bytes.extend(FLAG_META.to_le_bytes());
    bytes.extend([0; 6]);
    bytes.extend(meta);
    bytes.resize(page_len.bytes(), 0);
    bytes
}
