//! The tables against the protocol facts that they were made from, where the folder of facts is at
//! hand (EWS_FACTS_DIR).
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use tower_ews::soap::operation::{
    Operation, OperationIdempotency, PerMember, ResponseLayout, Split,
};
use tower_ews::soap::{CodeClass, Outcome, Outline, ResponseCode, SoapResponse};

fn facts() -> Option<PathBuf> {
    let folder = std::env::var_os("EWS_FACTS_DIR").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("skipped: EWS_FACTS_DIR is not set");
    }
    folder
}

/// The rows of a table of facts. Where the crate judges otherwise, on purpose, soap_facts_exceptions.tsv says what and
/// why.
fn rows(folder: &Path, name: &str) -> Vec<HashMap<String, String>> {
    let mut rows = read(&fs::read_to_string(folder.join(name)).unwrap());
    for exception in read(include_str!("soap_facts_exceptions.tsv")) {
        if exception["table"] != name {
            continue;
        }
        for column in ["why", "source"] {
            assert!(!exception[column].is_empty(), "{exception:?}");
        }
        let key = if name == "operations.tsv" {
            "operation"
        } else {
            "code"
        };
        let mut named = rows.iter_mut().filter(|row| row[key] == exception["row"]);
        let fact = named.next().unwrap().get_mut(&exception["column"]).unwrap();
        assert_ne!(*fact, exception["here"], "no exception: {exception:?}");
        fact.clone_from(&exception["here"]);
    }
    rows
}

fn read(text: &str) -> Vec<HashMap<String, String>> {
    let mut lines = text.lines().map(|line| line.split('\t').map(str::to_owned));
    let header: Vec<String> = lines.next().unwrap().collect();
    lines
        .map(|line| header.iter().cloned().zip(line).collect())
        .collect()
}

/// Also where the facts are not at hand.
#[test]
fn exceptions_name_rows_and_their_values() {
    let exceptions = read(include_str!("soap_facts_exceptions.tsv"));
    let rows: BTreeSet<_> = exceptions
        .iter()
        .map(|row| (&row["table"], &row["row"], &row["column"]))
        .collect();
    assert_eq!(rows.len(), exceptions.len());
    for row in &exceptions {
        assert_eq!(row["table"], "response-codes.tsv");
        let code = ResponseCode::from_text(&row["row"]);
        assert!(code.is_known(), "{code}");
        assert_eq!(outcome(&code), row["here"], "{code}");
    }
}

fn outcome(code: &ResponseCode) -> &'static str {
    match code.outcome() {
        Outcome::Executed => "applied",
        Outcome::NotExecuted => "not applied",
        Outcome::PartlyExecuted => "PARTLY APPLIED",
        Outcome::NotApplicableRead => "n/a (read)",
        Outcome::NotApplicable => "n/a",
        Outcome::Unknown => "unknown",
        other => panic!("{code}: {other:?}"),
    }
}

#[test]
fn operations() {
    let Some(folder) = facts() else { return };
    let rows = rows(&folder, "operations.tsv");
    assert_eq!(rows.len(), Operation::all().count());
    for row in rows {
        let name = &row["operation"];
        let operation = Operation::by_name(name).unwrap_or_else(|| panic!("{name}"));
        assert_eq!(
            format!("m:{}", operation.request_element()),
            row["request_element"]
        );
        let arrays: Vec<String> = operation
            .arrays()
            .iter()
            .map(|array| {
                let prefix = if array.member_namespace.uri().ends_with("types") {
                    "t"
                } else {
                    "m"
                };
                let members: Vec<String> = array
                    .members
                    .iter()
                    .map(|member| format!("{prefix}:{member}"))
                    .collect();
                format!("m:{} > {}", array.container, members.join("|"))
            })
            .collect();
        assert_eq!(
            arrays.join("; "),
            row["batch_array"].replace("(list of strings)", ""),
            "{name}"
        );
        let idempotency = match operation.idempotency() {
            OperationIdempotency::Safe => "yes",
            OperationIdempotency::Idempotent => "converges",
            OperationIdempotency::NonIdempotent => "no",
            OperationIdempotency::Unknown => "unknown",
            // What it depends on is in the code that reads the request.
            OperationIdempotency::PerMember => match operation.name() {
                "UploadItems" => "depends on t:Item/@CreateAction",
                "ApplyConversationAction" => "depends on t:Action",
                name => panic!("{name}: nothing reads what it depends on"),
            },
            OperationIdempotency::NotApplicable => "n/a",
            other => panic!("{name}: {other:?}"),
        };
        // What stands in brackets is a remark.
        let fact = row["idempotent"].split(" (").next();
        assert_eq!(fact, Some(idempotency), "{name}");
        let split = match operation.split() {
            Split::Safe => "safe",
            Split::SafeWithCare => "safe with care",
            Split::SafeSequential => "safe-sequential",
            Split::ChangesMeaning => "changes-meaning",
            Split::SafeUnlessSuggestions => {
                "changes-meaning with t:SuggestionsViewOptions; else safe"
            }
            Split::SafeUnlessOccurrences => {
                "safe-sequential with t:OccurrenceItemId or t:RecurringMasterItemId; else safe"
            }
            Split::NotApplicable => "n/a",
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!(row["split"], split, "{name}");
        let shape = match operation.response_layout() {
            ResponseLayout::ResponseMessages => "ResponseMessages",
            ResponseLayout::Itself => "self",
            ResponseLayout::ItselfAndEntries => "top-level ResponseClass AND inner entries",
            ResponseLayout::FreeBusy => "FreeBusyResponseArray",
            ResponseLayout::SingleMessage => "single m:ResponseMessage child",
            _ => "other: ",
        };
        assert_eq!(row["response_shape"], shape, "{name}");
        let per_member = match operation.one_response_per_member() {
            PerMember::Yes => "yes",
            PerMember::OwnLayout => "OTHER:",
            PerMember::No => "NO",
            _ => "n/a",
        };
        assert_eq!(
            row["one_response_per_member"].split(' ').next(),
            Some(per_member),
            "{name}"
        );
        assert_eq!(
            row["impersonation_header_in_wsdl"] == "yes",
            operation.impersonation_in_wsdl(),
            "{name}"
        );
        let path = &row["response_entry_path"];
        if let Some(element) = operation.response_element() {
            assert!(path.starts_with(&format!("m:{element}")), "{name}: {path}");
        }
        if let Some(entry) = operation.entry_element() {
            assert!(path.contains(&format!("/m:{entry}")), "{name}: {path}");
        }
    }
}

#[test]
fn codes() {
    let Some(folder) = facts() else { return };
    let rows = rows(&folder, "response-codes.tsv");
    assert_eq!(rows.len(), ResponseCode::all().count());
    let plain = |text: &str| text.to_lowercase().replace('-', "");
    for row in rows {
        let code = ResponseCode::from_text(&row["code"]);
        assert!(code.is_known(), "{code}");
        assert_eq!(
            format!("{:?}", code.class()).to_lowercase(),
            plain(&row["class"]),
            "{code}"
        );
        assert_eq!(row["outcome_of_member"], outcome(&code), "{code}");
    }
}

#[test]
fn samples() {
    let Some(folder) = facts() else { return };
    let files = |name: &str| {
        let files = fs::read_dir(folder.join(name))
            .unwrap()
            .map(|file| file.unwrap().path());
        files
            .filter(|path| path.extension().is_some_and(|end| end == "xml"))
            .collect::<Vec<_>>()
    };
    for path in files("samples") {
        let body = fs::read(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let operation = Operation::by_name(name.split('-').next().unwrap());
        if name.contains("-request-") {
            let outline = Outline::parse(&body).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(outline.operation(), operation, "{name}");
        } else {
            let response =
                SoapResponse::parse(&body).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(!response.messages.is_empty(), "{name}");
        }
    }
    let index: HashMap<String, HashMap<String, String>> = rows(&folder, "faults/index.tsv")
        .into_iter()
        .map(|row| (row["file"].clone(), row))
        .collect();
    for path in files("faults") {
        let name = path.file_name().unwrap().to_str().unwrap();
        let response = SoapResponse::parse(&fs::read(&path).unwrap())
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(response.fault().is_some(), name.contains("fault"), "{name}");
        let row = &index[name];
        let back_off = response
            .messages
            .iter()
            .filter_map(|message| message.back_off)
            .max();
        let expected = row["backoff_ms"]
            .rsplit("; ")
            .next()
            .unwrap()
            .split(' ')
            .next()
            .unwrap()
            .parse::<u128>();
        let last = row["backoff_ms"]
            .split("; ")
            .filter_map(|ms| ms.split(' ').next()?.parse().ok())
            .max();
        if !row["backoff_ms"].contains("no BackOffMilliseconds") {
            assert_eq!(
                back_off.map(|back_off| back_off.as_millis()),
                last.or(expected.ok()),
                "{name}"
            );
        }
        let class = row["expected_class"].to_lowercase();
        let found: Vec<CodeClass> = response
            .messages
            .iter()
            .map(|message| message.inner_code.as_ref().unwrap_or(&message.code).class())
            .collect();
        let named = |class_of: &CodeClass| {
            let word = format!("{class_of:?}").to_lowercase();
            class.replace(['-', ' '], "").contains(&word)
                || (class.contains("transient") && word.contains("transient"))
        };
        assert!(found.iter().any(named), "{name}: {found:?} {class}");
    }
}
