//! FindItem: pages, calendar views, order, and the rows that a search holds in memory.

use super::super::clock;
use super::super::failure::Failure;
use super::super::item_xml::write_item;
use super::super::mailbox::{Item, ItemKey};
use super::super::response_shape::{ResponseShape, path_matches};
use super::super::xml::Element;
use super::context::Context;
use super::response::MemberResult;
use super::restriction::matches;

/// Exchange gives no more rows at once than this (the throttling article's note on page sizes).
const MOST_ROWS: usize = 1000;

/// The rows of a response.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) offset: usize,
    pub(super) rows: usize,
    last: bool,
    indexed: bool,
}

impl Page {
    /// The page of a view over that many rows: no more than `most` of them.
    fn of(view: Option<&Element>, total: usize, most: Option<usize>) -> Self {
        let number = |name| {
            view.and_then(|view| view.attribute(name))
                .and_then(|text| text.parse::<usize>().ok())
        };
        let offset = number("Offset").unwrap_or(0).min(total);
        let offset = match view.and_then(|view| view.attribute("BasePoint")) {
            // Counted from the end backwards.
            Some("End") => total - offset,
            _ => offset,
        };
        let wanted = number("MaxEntriesReturned")
            .unwrap_or(usize::MAX)
            .min(MOST_ROWS);
        let rows = (total - offset).min(wanted).min(most.unwrap_or(usize::MAX));
        Self {
            offset,
            rows,
            last: offset + rows >= total,
            indexed: view.is_some(),
        }
    }

    pub(super) fn attributes(&self, total: usize) -> String {
        let next = if self.indexed {
            format!(" IndexedPagingOffset=\"{}\"", self.offset + self.rows)
        } else {
            String::new()
        };
        format!(
            "{next} TotalItemsInView=\"{total}\" IncludesLastItemInRange=\"{}\"",
            self.last
        )
    }
}

pub(super) fn find(context: &mut Context<'_>, request: &Element, parent: &Element) -> MemberResult {
    let (index, folder) = context.folder(parent)?;
    let restriction = request
        .child("Restriction")
        .and_then(|restriction| restriction.children().next());
    let query = request
        .child_text("QueryString")
        .filter(|query| !query.is_empty());
    let slow = context
        .policy
        .fast_search_timeout
        .is_some_and(|limit| context.took >= limit);
    if query.is_some() && slow {
        return Err(Failure::timed_out());
    }
    let calendar = request.child("CalendarView");
    let mailbox = context.store.get(index).ok_or_else(Failure::no_mailbox)?;
    let mut found: Vec<(ItemKey, &Item)> = mailbox
        .items_in(folder)
        .filter(|(_, item)| restriction.is_none_or(|restriction| matches(item, restriction)))
        .filter(|(_, item)| query.as_deref().is_none_or(|query| mentions(item, query)))
        .filter(|(_, item)| calendar.is_none_or(|view| overlaps(item, view)))
        .collect();
    in_order(&mut found, request);
    let found: Vec<ItemKey> = found.into_iter().map(|(item_key, _)| item_key).collect();
    let view = request.child("IndexedPageItemView");
    let filtered = restriction.is_some() || query.is_some();
    let page = page(
        context,
        view.or(calendar),
        view.is_some(),
        filtered,
        found.len(),
    )?;
    let shape = ResponseShape::of(request, "ItemShape", true);
    let mut out = if calendar.is_some() {
        format!(
            "<m:RootFolder TotalItemsInView=\"{}\" IncludesLastItemInRange=\"{}\"><t:Items>",
            found.len(),
            page.last
        )
    } else {
        format!("<m:RootFolder{}><t:Items>", page.attributes(found.len()))
    };
    let mailbox = context.mailbox(index)?;
    for item_key in found.iter().skip(page.offset).take(page.rows) {
        if let Some(item) = mailbox.items.get(item_key) {
            write_item(mailbox, *item_key, item, &shape, &mut out);
        }
    }
    out.push_str("</t:Items></m:RootFolder>");
    Ok(out)
}

/// The page of a view over that many rows, as far as the budget has room for them. They are in
/// memory from now until the call ends.
pub(super) fn page(
    context: &mut Context<'_>,
    view: Option<&Element>,
    paged: bool,
    filtered: bool,
    total: usize,
) -> Result<Page, Failure> {
    let limit = match filtered {
        true => context.policy.find_count_filtered,
        false => context.policy.find_count,
    };
    let full = Page::of(view, total, None);
    let left = limit.map(|limit| context.budgets.rows_left(limit, context.payers) as usize);
    let page = match left.filter(|left| *left < full.rows) {
        None => full,
        Some(left) => {
            context.counters.throttled("EWSFindCountLimit");
            context.counters.violation("EWSFindCountLimit");
            // What is over the limit: an error to old clients and without pages, else a short page.
            if context.old_version {
                return Err(Failure::busy(None));
            }
            if !paged || left == 0 {
                return Err(too_many_found());
            }
            Page::of(view, total, Some(left))
        }
    };
    let rows = u32::try_from(page.rows).unwrap_or(u32::MAX);
    context.budgets.hold_rows(context.payers, rows);
    *context.rows += rows;
    Ok(page)
}

fn too_many_found() -> Failure {
    Failure::new(
        "ErrorExceededFindCountLimit",
        "You have exceeded the maximum number of objects that can be returned for the find operation. \
         Use paging to reduce the result size and try your request again.",
    )
}

/// Calendar views are in order of time, and others as the request says.
fn in_order(found: &mut [(ItemKey, &Item)], request: &Element) {
    let order = request.child("SortOrder");
    if request.child("CalendarView").is_some() {
        found.sort_by_key(|(_, item)| {
            item.field("Start")
                .and_then(|start| clock::parse(&start.text()))
        });
    } else if let Some(order) = order.and_then(|order| order.child("FieldOrder")) {
        sort(found, order);
    }
}

/// A query string is a phrase in the subject here: no query language.
fn mentions(item: &Item, query: &str) -> bool {
    let phrase = query.split_once(':').map_or(query, |(_, phrase)| phrase);
    item.subject()
        .to_lowercase()
        .contains(&phrase.trim_matches('"').to_lowercase())
}

fn overlaps(item: &Item, view: &Element) -> bool {
    let edge = |name| view.attribute(name).and_then(clock::parse);
    let time = |name| {
        item.field(name)
            .and_then(|field| clock::parse(&field.text()))
    };
    match (
        time("Start"),
        time("End"),
        edge("StartDate"),
        edge("EndDate"),
    ) {
        (Some(start), Some(end), Some(from), Some(to)) => {
            start < to && (end > from || start >= from)
        }
        _ => false,
    }
}

fn sort(found: &mut [(ItemKey, &Item)], order: &Element) {
    let Some(path) = order.children().next() else {
        return;
    };
    found.sort_by_cached_key(|(_, item)| {
        let field = item.fields.iter().find(|field| path_matches(path, field));
        field.map(Element::text)
    });
    if order.attribute("Order") == Some("Descending") {
        found.reverse();
    }
}
