//! [`Accounts`]: the principals of which something is known.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::account::Account;
use crate::principal::Principal;

#[derive(Debug, Default)]
pub(super) struct Accounts {
    table: HashTable<Account>,
    /// The principal, by its hash, of which nothing was left last. It stays until there is another: its next call, which is the
    /// usual one of a job in one account, finds it in place.
    spare: Option<u64>,
    /// Whether budgets allow what a fleet's ledger lends, and nothing else.
    pub(super) leased: bool,
}

impl Accounts {
    #[inline]
    pub(super) fn get_mut(&mut self, principal: &Principal) -> Option<&mut Account> {
        self.table.find_mut(principal.hash64(), |account| {
            account.principal == *principal
        })
    }

    #[inline]
    pub(super) fn get_or_new(&mut self, principal: &Principal) -> &mut Account {
        let entry = self.table.entry(
            principal.hash64(),
            |account| account.principal == *principal,
            |account| account.principal.hash64(),
        );
        match entry {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let account = Account::new(principal.clone(), self.leased);
                entry.insert(account).into_mut()
            }
        }
    }

    /// The principal with that hash.
    pub(super) fn by_hash(&mut self, hash: u64) -> Option<&mut Account> {
        self.table
            .find_mut(hash, |account| account.principal.hash64() == hash)
    }

    /// Nothing is left of the principal with that hash: it becomes the spare one, and the one before it goes.
    #[inline]
    pub(super) fn keep_spare(&mut self, hash: u64) {
        if self.spare == Some(hash) {
            return;
        }
        if let Some(old) = self.spare.replace(hash) {
            self.remove_spare(old);
        }
    }

    fn remove_spare(&mut self, old: u64) {
        let found = self.table.find_entry(old, |account| {
            account.principal.hash64() == old && account.is_vacant()
        });
        if let Ok(entry) = found {
            entry.remove();
            self.shrink();
        }
    }

    pub(super) fn remove(&mut self, principal: &Principal) {
        let found = self.table.find_entry(principal.hash64(), |account| {
            account.principal == *principal
        });
        if let Ok(entry) = found {
            entry.remove();
            self.shrink();
        }
    }

    fn shrink(&mut self) {
        let room = self.table.capacity();
        if room > 1024 && self.table.len() < room / 8 {
            let keep = self.table.len() * 2;
            self.table
                .shrink_to(keep, |account| account.principal.hash64());
        }
    }

    #[cfg(test)]
    pub(super) fn room(&self) -> usize {
        self.table.capacity()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Account> {
        self.table.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(n: usize) -> Principal {
        Principal::new(n.to_string())
    }

    fn with(many: usize) -> Accounts {
        let mut accounts = Accounts::default();
        for n in 0..many {
            accounts.get_or_new(&of(n));
        }
        accounts
    }

    #[test]
    fn room_is_given_back_once_less_than_an_eighth_of_it_is_in_use() {
        let mut accounts = with(100_000);
        let full = accounts.room();
        for left in (2_000..100_000).rev() {
            let before = accounts.room();
            accounts.remove(&of(left));
            let room = accounts.room();
            // Each time costs as much as what is left: not sooner, and not again at once.
            let shrunk = room + 8 < before;
            assert!(
                !shrunk || left < full / 8 && 2 * left <= room,
                "{left} in {room}"
            );
            assert!(room < 8 * (left + 2), "{left} in {room}");
        }
        assert!((0..2_000).all(|n| accounts.get_mut(&of(n)).is_some()));
    }

    #[test]
    fn a_small_table_stays_as_it_is() {
        let mut accounts = with(500);
        (1..500).for_each(|n| accounts.remove(&of(n)));
        assert!(accounts.room() > 256);
    }
}
