//! SearchMailboxes: a phrase in the subjects of several mailboxes.

use super::super::failure::Failure;
use super::super::xml::Element;
use super::context::Context;
use super::response::MemberResult;

pub(super) fn search(context: &mut Context<'_>, request: &Element) -> MemberResult {
    let queries = request.child("SearchQueries").into_iter();
    let queries: Vec<&Element> = queries.flat_map(Element::children).collect();
    let words = |query: &&Element| {
        let query = query.child_text("Query").unwrap_or_default();
        query.split_whitespace().count()
    };
    let words: usize = queries.iter().map(words).sum();
    let scopes = |query: &&Element| -> Vec<String> {
        let scopes = query.child("MailboxSearchScopes").into_iter();
        let scopes = scopes.flat_map(Element::children);
        scopes
            .filter_map(|scope| scope.child_text("Mailbox"))
            .collect()
    };
    let mailboxes: usize = queries.iter().map(|query| scopes(query).len()).sum();
    let limits = [
        (
            "DiscoveryMaxMailboxes",
            context.policy.discovery_mailboxes,
            mailboxes,
            "ErrorSearchTooManyMailboxes",
        ),
        (
            "DiscoveryMaxKeywords",
            context.policy.discovery_keywords,
            words,
            "ErrorSearchQueryHasTooManyKeywords",
        ),
    ];
    for (parameter, limit, number, code) in limits {
        if let Some(limit) = limit.filter(|limit| number > *limit as usize) {
            context.counters.violation(parameter);
            let text = format!("The search has {number}, and {limit} are allowed.");
            return Err(Failure::new(code, text));
        }
    }
    let mut found = 0;
    let mut echo = String::new();
    for query in &queries {
        query.write(&mut echo);
        let phrase = query.child_text("Query").unwrap_or_default().to_lowercase();
        for mailbox in scopes(query) {
            let mailbox = context.store.existing(&mailbox);
            let items = mailbox
                .into_iter()
                .flat_map(|mailbox| mailbox.items.values());
            let has = |item: &&_| subject_of(item).contains(&phrase);
            found += items.filter(has).count();
        }
    }
    Ok(format!(
        "<m:SearchMailboxesResult><t:SearchQueries>{echo}</t:SearchQueries><t:ResultType>StatisticsOnly</t:ResultType>\
         <t:ItemCount>{found}</t:ItemCount><t:Size>0</t:Size><t:PageItemCount>0</t:PageItemCount>\
         <t:PageItemSize>0</t:PageItemSize></m:SearchMailboxesResult>"
    ))
}

fn subject_of(item: &super::super::mailbox::Item) -> String {
    item.subject().to_lowercase()
}
