//! The policy part whose budget a refusal says was exceeded, and its number.

/// Reads `... the throttling budget for policy part 'ConcurrentSyncCalls', policy value '5', ...` in the text of a message.
pub(crate) fn policy_part(text: &str) -> Option<(&str, u32)> {
    let (_, behind) = text.split_once("policy part '")?;
    let (part, behind) = behind.split_once('\'')?;
    let (between, behind) = behind.split_once("policy value '")?;
    let (number, _) = behind.split_once('\'')?;
    // Both are said of the same part.
    let number = number.parse().ok().filter(|_| between.len() <= 4)?;
    Some((part, number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        let text = "Try again later., This operation exceeds the throttling budget for policy part 'ConcurrentSyncCalls', policy \
                    value '5',  Budget type: 'Ews'.  Suggested backoff time 5000 ms.";
        assert_eq!(policy_part(text), Some(("ConcurrentSyncCalls", 5)));
        for text in [
            "",
            "policy part",
            "policy part 'a",
            "policy part 'a', policy value '",
            "policy part 'a', policy value 'Unlimited'",
            "policy part 'a', policy value '-1'",
            "policy part 'a' is full. Another: policy value '5'",
            "policy value '5', policy part 'a'",
        ] {
            assert_eq!(policy_part(text), None, "{text}");
        }
    }
}
