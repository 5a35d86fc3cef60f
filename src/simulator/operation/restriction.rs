//! Restrictions: the search expressions that clients send with FindItem.

use std::cmp::Ordering;

use super::super::clock;
use super::super::mailbox::Item;
use super::super::response_shape::path_matches;
use super::super::xml::Element;

/// Whether an item satisfies an expression. An expression that is not known is satisfied by
/// nothing.
pub(super) fn matches(item: &Item, expression: &Element) -> bool {
    let compared = |wanted: &[Ordering]| {
        compare(item, expression).is_some_and(|ordering| wanted.contains(&ordering))
    };
    match expression.name.as_str() {
        "And" => expression.children().all(|part| matches(item, part)),
        "Or" => expression.children().any(|part| matches(item, part)),
        "Not" => expression
            .children()
            .next()
            .is_some_and(|part| !matches(item, part)),
        "Exists" => expression
            .children()
            .next()
            .is_some_and(|path| value(item, path).is_some()),
        "Contains" => contains(item, expression).unwrap_or(false),
        "IsEqualTo" => compared(&[Ordering::Equal]),
        "IsNotEqualTo" => !compared(&[Ordering::Equal]),
        "IsGreaterThan" => compared(&[Ordering::Greater]),
        "IsGreaterThanOrEqualTo" => compared(&[Ordering::Greater, Ordering::Equal]),
        "IsLessThan" => compared(&[Ordering::Less]),
        "IsLessThanOrEqualTo" => compared(&[Ordering::Less, Ordering::Equal]),
        _ => false,
    }
}

fn value(item: &Item, path: &Element) -> Option<String> {
    let field = item.fields.iter().find(|field| path_matches(path, field))?;
    Some(match field.child("Value") {
        // An extended property carries its value in a child.
        Some(value) => value.text(),
        None => field.text(),
    })
}

fn compare(item: &Item, expression: &Element) -> Option<Ordering> {
    let mut children = expression.children();
    let path = children.next()?;
    let operand = children.next()?.children().next()?;
    let wanted = match operand.name.as_str() {
        "Constant" => operand.attribute("Value")?.to_owned(),
        _ => value(item, operand)?,
    };
    let found = value(item, path)?;
    if let (Some(found), Some(wanted)) = (clock::parse(&found), clock::parse(&wanted)) {
        return Some(found.cmp(&wanted));
    }
    if let (Ok(found), Ok(wanted)) = (found.parse::<f64>(), wanted.parse::<f64>()) {
        return found.partial_cmp(&wanted);
    }
    Some(found.cmp(&wanted))
}

fn contains(item: &Item, expression: &Element) -> Option<bool> {
    let mut children = expression.children();
    let found = value(item, children.next()?)?;
    let wanted = children.next()?.attribute("Value")?;
    let exact = matches!(
        expression.attribute("ContainmentComparison"),
        None | Some("Exact")
    );
    let (found, wanted) = if exact {
        (found, wanted.to_owned())
    } else {
        (found.to_lowercase(), wanted.to_lowercase())
    };
    Some(match expression.attribute("ContainmentMode") {
        Some("FullString") => found == wanted,
        Some("Prefixed") => found.starts_with(&wanted),
        _ => found.contains(&wanted),
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::xml::{TYPES_NS, parse};
    use super::*;

    #[test]
    fn expressions() {
        let item = Item {
            attachments: Default::default(),
            element: "CalendarItem".to_owned(),
            fields: vec![
                Element::types("Subject", "Budget talk"),
                Element::types("Size", "900"),
                Element::types("Start", "2026-01-01T10:00:00+01:00"),
            ],
            created: 1,
            version: 1,
        };
        let test = |text: &str| {
            let root = parse(format!("<R xmlns='{TYPES_NS}'>{text}</R>").as_bytes()).unwrap();
            matches(&item, root.children().next().unwrap())
        };
        let compare = |operator: &str, path: &str, value: &str| {
            format!(
                "<{operator}><FieldURI FieldURI='{path}'/><FieldURIOrConstant><Constant Value='{value}'/>\
                 </FieldURIOrConstant></{operator}>"
            )
        };
        let start = compare("IsEqualTo", "calendar:Start", "2026-01-01T09:00:00Z");
        let size = compare("IsLessThan", "item:Size", "1000");
        let other = compare("IsEqualTo", "item:Subject", "Other");
        assert!(test(&start), "the same instant in another zone");
        assert!(test(&size), "as numbers");
        assert!(!test(&other));
        assert!(test(&format!("<And>{start}{size}</And>")));
        assert!(test(&format!("<Or>{other}{size}</Or>")));
        assert!(test(&format!("<Not>{other}</Not>")));
        assert!(!test("<Exists><FieldURI FieldURI='item:Body'/></Exists>"));
        let contains = "<Contains ContainmentMode='Prefixed' ContainmentComparison='IgnoreCase'>\
                        <FieldURI FieldURI='item:Subject'/><Constant Value='BUDGET'/></Contains>";
        assert!(test(contains));
        assert!(!test("<Excludes/>"));
    }
}
