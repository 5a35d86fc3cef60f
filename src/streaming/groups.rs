//! [`Groups`]: the groups, by where their mailboxes are, and the accounts that their connections are charged to.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::group::Group;
use super::locate::Location;
use super::settings::Settings;
use super::step::{GroupId, MemberId, Route};
use crate::affinity::AffinityGroup;

/// All groups.
#[derive(Debug)]
pub(super) struct Groups {
    settings: Arc<Settings>,
    groups: BTreeMap<GroupId, Group>,
    by_location: HashMap<Location, Vec<GroupId>>,
    accounts: Vec<Account>,
    made: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Account {
    groups: usize,
    /// Groups whose connection is charged to it.
    charged: usize,
}

impl Groups {
    pub(super) fn new(settings: Arc<Settings>) -> Self {
        Self {
            accounts: vec![Account::default(); settings.callers.len().max(1)],
            settings,
            groups: BTreeMap::new(),
            by_location: HashMap::new(),
            made: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.groups.len()
    }

    /// How many have a connection.
    pub(super) fn open(&self) -> usize {
        let groups = self.groups.values();
        groups.filter(|group| group.lines.is_open()).count()
    }

    pub(super) fn get(&self, id: GroupId) -> Option<&Group> {
        self.groups.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: GroupId) -> Option<&mut Group> {
        self.groups.get_mut(&id)
    }

    /// Puts a member into a group at that location: one with room, or a new one whose anchor it is.
    pub(super) fn join(
        &mut self,
        member: MemberId,
        mailbox: &Arc<str>,
        location: Location,
    ) -> GroupId {
        let id = match self.with_room(&location) {
            Some(id) => id,
            None => self.make(mailbox, location),
        };
        if let Some(group) = self.groups.get_mut(&id) {
            group.members.push(member);
        }
        id
    }

    /// A group that one more member may join.
    fn with_room(&self, location: &Location) -> Option<GroupId> {
        let mut groups = self.by_location.get(location)?.iter().copied();
        groups.find(|id| {
            let group = self.groups.get(id);
            group.is_some_and(|group| group.members.len() < self.settings.group_size)
        })
    }

    fn make(&mut self, anchor: &Arc<str>, location: Location) -> GroupId {
        let limit = self.settings.hanging_connections;
        let accounts = self.accounts.iter_mut().enumerate();
        let emptiest =
            accounts.min_by_key(|(_, account)| (account.charged >= limit, account.groups));
        let (account, charged) = match emptiest {
            Some((index, account)) => {
                let charged = account.charged < limit;
                account.groups += 1;
                account.charged += usize::from(charged);
                (index, charged)
            }
            None => (0, false),
        };
        let route = Route {
            affinity: AffinityGroup::new(anchor),
            endpoint: location.endpoint.clone(),
            caller: self.settings.callers.get(account).cloned(),
        };
        let group = Group::new(location.clone(), (account, charged), route);
        self.made += 1;
        self.groups.insert(self.made, group);
        self.by_location
            .entry(location)
            .or_default()
            .push(self.made);
        self.made
    }

    /// Takes a member out of its group.
    pub(super) fn leave(&mut self, id: GroupId, member: MemberId) {
        if let Some(group) = self.groups.get_mut(&id) {
            group.members.retain(|other| *other != member);
            group.waiting.retain(|other| *other != member);
            group.awaited.remove(&member);
            self.drop_if_over(id);
        }
    }

    /// Whether a group has only these members.
    pub(super) fn has_no_others(&self, id: GroupId, members: &[MemberId]) -> bool {
        let group = self.groups.get(&id);
        group.is_some_and(|group| group.members.len() <= members.len())
    }

    /// Nobody joins a group any more: its cookie leads nowhere.
    pub(super) fn close(&mut self, id: GroupId) {
        let Some(group) = self.groups.get(&id) else {
            return;
        };
        if let Some(groups) = self.by_location.get_mut(&group.location) {
            groups.retain(|other| *other != id);
        }
        self.by_location.retain(|_, groups| !groups.is_empty());
    }

    /// Whether nobody may join a group.
    fn is_closed(&self, id: GroupId) -> bool {
        let location = self.groups.get(&id).map(|group| &group.location);
        let groups = location.and_then(|location| self.by_location.get(location));
        groups.is_none_or(|groups| !groups.contains(&id))
    }

    /// Whether a group at the place of this one, which is closed, has room for its one member.
    pub(super) fn has_another(&self, id: GroupId) -> bool {
        let group = self.groups.get(&id);
        group.is_some_and(|group| self.with_room(&group.location).is_some())
    }

    /// Mailboxes may join a group again.
    pub(super) fn reopen(&mut self, id: GroupId) {
        if let Some(group) = self.groups.get(&id).filter(|_| self.is_closed(id)) {
            let groups = self.by_location.entry(group.location.clone());
            groups.or_default().push(id);
        }
    }

    /// A group without members is no group any more once its last call has ended: until then its connection counts.
    pub(super) fn drop_if_over(&mut self, id: GroupId) {
        if !self.groups.get(&id).is_some_and(Group::is_over) {
            return;
        }
        self.close(id);
        let group = self.groups.remove(&id);
        let account = group.and_then(|group| {
            let account = self.accounts.get_mut(group.account)?;
            Some((account, group.charged_to_account))
        });
        if let Some((account, charged)) = account {
            account.groups -= 1;
            account.charged -= usize::from(charged);
        }
    }
}
