//! The store: mailboxes with their folders and items, in memory.

use std::collections::{BTreeMap, HashMap};

use super::id::{Guid, Id, change_key, guid_of};
use super::xml::Element;

/// A folder that every mailbox has.
struct WellKnown {
    id: &'static str,
    element: &'static str,
    class: &'static str,
    name: &'static str,
    parent: Option<u64>,
}

const fn well_known(
    id: &'static str,
    element: &'static str,
    class: &'static str,
    name: &'static str,
    parent: Option<u64>,
) -> WellKnown {
    WellKnown {
        id,
        element,
        class,
        name,
        parent,
    }
}

const TOP: Option<u64> = Some(2);

/// The folder with index n has the number n + 1.
const WELL_KNOWN: [WellKnown; 15] = [
    well_known("root", "Folder", "", "Root", None),
    well_known(
        "msgfolderroot",
        "Folder",
        "IPF.Note",
        "Top of Information Store",
        Some(1),
    ),
    well_known(
        "calendar",
        "CalendarFolder",
        "IPF.Appointment",
        "Calendar",
        TOP,
    ),
    well_known("contacts", "ContactsFolder", "IPF.Contact", "Contacts", TOP),
    well_known("deleteditems", "Folder", "IPF.Note", "Deleted Items", TOP),
    well_known("drafts", "Folder", "IPF.Note", "Drafts", TOP),
    well_known("inbox", "Folder", "IPF.Note", "Inbox", TOP),
    well_known("journal", "Folder", "IPF.Journal", "Journal", TOP),
    well_known("junkemail", "Folder", "IPF.Note", "Junk Email", TOP),
    well_known("notes", "Folder", "IPF.StickyNote", "Notes", TOP),
    well_known("outbox", "Folder", "IPF.Note", "Outbox", TOP),
    well_known("sentitems", "Folder", "IPF.Note", "Sent Items", TOP),
    well_known("tasks", "TasksFolder", "IPF.Task", "Tasks", TOP),
    well_known(
        "recoverableitemsroot",
        "Folder",
        "",
        "Recoverable Items",
        Some(1),
    ),
    well_known(
        "recoverableitemsdeletions",
        "Folder",
        "",
        "Deletions",
        Some(14),
    ),
];

/// Numbers of created folders and items start here.
const FIRST_FREE: u64 = 100;

/// A folder.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    pub(super) parent: Option<u64>,
    /// The element that stands for its kind: `Folder`, `CalendarFolder`, ...
    pub(super) element: &'static str,
    pub(super) class: String,
    pub(super) name: String,
    pub(super) distinguished: Option<&'static str>,
    pub(super) created: u64,
    pub(super) version: u64,
}

/// An item: its properties are the elements of the types namespace that a client sent, plus the
/// server's own.
#[derive(Clone, Debug)]
pub(super) struct Item {
    /// The element that stands for its kind: `Message`, `CalendarItem`, ...
    pub(super) element: String,
    pub(super) fields: Vec<Element>,
    /// Its attachments, by number.
    pub(super) attachments: BTreeMap<u64, Element>,
    pub(super) created: u64,
    pub(super) version: u64,
}

impl Item {
    pub(super) fn field(&self, name: &str) -> Option<&Element> {
        self.fields.iter().find(|field| field.name == name)
    }

    pub(super) fn subject(&self) -> String {
        self.field("Subject").map(Element::text).unwrap_or_default()
    }
}

/// Where an item is: its folder's and its own number.
pub(super) type ItemKey = (u64, u64);

/// One mailbox.
#[derive(Debug)]
pub(super) struct Mailbox {
    pub(super) address: String,
    pub(super) guid: Guid,
    pub(super) folders: BTreeMap<u64, Folder>,
    pub(super) items: BTreeMap<ItemKey, Item>,
    /// What left which folder at which version, for synchronisation.
    pub(super) gone: Vec<(u64, ItemKey)>,
    /// Its delegates' settings, by address, in the order in which they were added.
    pub(super) delegates: Vec<(String, Element)>,
    /// Who gets meeting requests.
    pub(super) meeting_requests: String,
    version: u64,
    next: u64,
}

impl Mailbox {
    fn new(address: &str, seed: u64) -> Self {
        let folders = WELL_KNOWN.iter().zip(1..).map(|(known, number)| {
            let folder = Folder {
                parent: known.parent,
                element: known.element,
                class: known.class.to_owned(),
                name: known.name.to_owned(),
                distinguished: Some(known.id),
                created: 1,
                version: 1,
            };
            (number, folder)
        });
        Self {
            address: address.to_owned(),
            guid: guid_of(address, seed),
            folders: folders.collect(),
            items: BTreeMap::new(),
            gone: Vec::new(),
            delegates: Vec::new(),
            meeting_requests: "DelegatesAndMe".to_owned(),
            version: 1,
            next: FIRST_FREE,
        }
    }

    /// The number of a folder by its well-known name.
    pub(super) fn distinguished(&self, id: &str) -> Option<u64> {
        self.folders
            .iter()
            .find(|(_, folder)| folder.distinguished == Some(id))
            .map(|(number, _)| *number)
    }

    /// The version that the next change of this mailbox makes.
    pub(super) fn bump(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn add_item(
        &mut self,
        folder: u64,
        element: String,
        fields: Vec<Element>,
    ) -> ItemKey {
        let item = Item {
            element,
            fields,
            attachments: BTreeMap::new(),
            created: 0,
            version: 0,
        };
        self.put_item(folder, item)
    }

    /// Puts an item, a removed one or a copy, into a folder as a new one.
    pub(super) fn put_item(&mut self, folder: u64, item: Item) -> ItemKey {
        let version = self.bump();
        let item_key = (folder, self.take_number());
        let item = Item {
            created: version,
            version,
            ..item
        };
        self.items.insert(item_key, item);
        item_key
    }

    /// A number that nothing else in this mailbox has.
    pub(super) fn take_number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    pub(super) fn remove_item(&mut self, item_key: ItemKey) -> Option<Item> {
        let item = self.items.remove(&item_key)?;
        let version = self.bump();
        self.gone.push((version, item_key));
        Some(item)
    }

    pub(super) fn add_folder(&mut self, folder: Folder) -> u64 {
        let version = self.bump();
        let number = self.take_number();
        self.folders.insert(
            number,
            Folder {
                created: version,
                version,
                ..folder
            },
        );
        number
    }

    /// All folders below one: each before those below it.
    pub(super) fn descendants(&self, parent: u64) -> Vec<u64> {
        let mut found = Vec::new();
        // No recursion: clients nest folders as deep as they like.
        let mut open = vec![parent];
        while let Some(parent) = open.pop() {
            for (number, _) in self.children(parent) {
                found.push(number);
                open.push(number);
            }
        }
        found
    }

    /// Removes a folder with all that is in it.
    pub(super) fn remove_folder(&mut self, number: u64) {
        let mut doomed = self.descendants(number);
        doomed.insert(0, number);
        for number in doomed.into_iter().rev() {
            let item_keys: Vec<ItemKey> = self
                .items_in(number)
                .map(|(item_key, _)| item_key)
                .collect();
            for item_key in item_keys {
                self.remove_item(item_key);
            }
            if self.folders.remove(&number).is_some() {
                let version = self.bump();
                self.gone.push((version, (number, 0)));
            }
        }
    }

    pub(super) fn children(&self, parent: u64) -> impl Iterator<Item = (u64, &Folder)> {
        self.folders
            .iter()
            .filter(move |(_, folder)| folder.parent == Some(parent))
            .map(|(number, folder)| (*number, folder))
    }

    pub(super) fn items_in(&self, folder: u64) -> impl Iterator<Item = (ItemKey, &Item)> {
        self.items
            .range((folder, 0)..=(folder, u64::MAX))
            .map(|(item_key, item)| (*item_key, item))
    }

    pub(super) fn folder_id(&self, number: u64) -> String {
        Id {
            mailbox: self.guid,
            folder: number,
            item: None,
            attachment: None,
        }
        .encode()
    }

    pub(super) fn item_id(&self, item_key: ItemKey) -> String {
        Id {
            mailbox: self.guid,
            folder: item_key.0,
            item: Some(item_key.1),
            attachment: None,
        }
        .encode()
    }

    pub(super) fn attachment_id(&self, item_key: ItemKey, attachment: u64) -> String {
        Id {
            mailbox: self.guid,
            folder: item_key.0,
            item: Some(item_key.1),
            attachment: Some(attachment),
        }
        .encode()
    }

    pub(super) fn key(&self, version: u64) -> String {
        change_key(&self.guid, version)
    }
}

/// All mailboxes.
#[derive(Debug)]
pub(super) struct Store {
    seed: u64,
    autocreate: bool,
    aliases: HashMap<String, String>,
    mailboxes: Vec<Mailbox>,
    by_address: HashMap<String, usize>,
    by_guid: HashMap<Guid, usize>,
}

impl Store {
    pub(super) fn new(seed: u64, autocreate: bool, aliases: HashMap<String, String>) -> Self {
        Self {
            seed,
            autocreate,
            aliases,
            mailboxes: Vec::new(),
            by_address: HashMap::new(),
            by_guid: HashMap::new(),
        }
    }

    pub(super) fn add(&mut self, address: &str) -> usize {
        let address = address.trim().to_lowercase();
        if let Some(index) = self.by_address.get(&address) {
            return *index;
        }
        let index = self.mailboxes.len();
        let mailbox = Mailbox::new(&address, self.seed);
        self.by_guid.insert(mailbox.guid, index);
        self.by_address.insert(address, index);
        self.mailboxes.push(mailbox);
        index
    }

    /// The mailbox of an address or of an alias of one. Creates it where that is allowed.
    pub(super) fn find(&mut self, name: &str) -> Option<usize> {
        let name = name.trim().to_lowercase();
        let address = self.aliases.get(&name).cloned().unwrap_or(name);
        match self.by_address.get(&address) {
            Some(index) => Some(*index),
            None if self.autocreate && is_address(&address) => Some(self.add(&address)),
            None => None,
        }
    }

    /// The mailbox of an address, if it exists already.
    pub(super) fn existing(&self, address: &str) -> Option<&Mailbox> {
        self.get(self.index(address)?)
    }

    /// Where an address's mailbox is, if it exists already.
    pub(super) fn index(&self, address: &str) -> Option<usize> {
        self.by_address.get(&address.trim().to_lowercase()).copied()
    }

    pub(super) fn by_guid(&self, guid: &Guid) -> Option<usize> {
        self.by_guid.get(guid).copied()
    }

    pub(super) fn get(&self, index: usize) -> Option<&Mailbox> {
        self.mailboxes.get(index)
    }

    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut Mailbox> {
        self.mailboxes.get_mut(index)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Mailbox> {
        self.mailboxes.iter()
    }
}

fn is_address(text: &str) -> bool {
    text.split_once('@').is_some_and(|(local, domain)| {
        !local.is_empty()
            && !domain.is_empty()
            && !text.contains(|c: char| c.is_whitespace() || c.is_control())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mailboxes_are_created_on_first_touch_only_where_allowed() {
        let aliases = HashMap::from([("s-1-5".to_owned(), "a@contoso.com".to_owned())]);
        let mut open = Store::new(0, true, aliases.clone());
        assert_eq!(open.find(" A@contoso.com "), Some(0));
        assert_eq!(open.find("S-1-5"), Some(0));
        assert_eq!(open.find("nobody"), None);
        let mut closed = Store::new(0, false, aliases);
        assert_eq!(closed.find("a@contoso.com"), None);
        closed.add("a@contoso.com");
        assert_eq!(closed.find("s-1-5"), Some(0));
    }

    #[test]
    fn removing_a_folder_removes_what_is_below() {
        let mut mailbox = Mailbox::new("a@contoso.com", 0);
        let inbox = mailbox.distinguished("inbox").unwrap();
        let folder = Folder {
            parent: Some(inbox),
            element: "Folder",
            class: String::new(),
            name: "x".to_owned(),
            distinguished: None,
            created: 0,
            version: 0,
        };
        let outer = mailbox.add_folder(folder.clone());
        let inner = mailbox.add_folder(Folder {
            parent: Some(outer),
            ..folder
        });
        mailbox.add_item(inner, "Message".to_owned(), Vec::new());
        mailbox.remove_folder(outer);
        assert!(mailbox.items.is_empty());
        assert_eq!(mailbox.folders.len(), WELL_KNOWN.len());
        assert_eq!(mailbox.gone.len(), 3);
    }
}
