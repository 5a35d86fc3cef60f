//! Autodiscover's GetUserSettings: asks for the settings that say which server has a mailbox, and reads them.

use std::fmt::Write as _;

use super::xml::{Event, Reader};

/// The settings of one user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct UserSettings {
    /// `NoError`, or why there are none.
    pub(crate) error: Box<str>,
    pub(crate) ews_url: Option<Box<str>>,
    pub(crate) grouping: Option<Box<str>>,
}

/// Asks for the settings of these users.
pub(crate) fn get_user_settings(to: &str, users: &[&str]) -> String {
    let mut list = String::new();
    for user in users {
        let user = quick_xml::escape::escape(*user);
        let _ = write!(list, "<a:User><a:Mailbox>{user}</a:Mailbox></a:User>");
    }
    let to = quick_xml::escape::escape(to);
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\
         <s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
         xmlns:w=\"http://www.w3.org/2005/08/addressing\" \
         xmlns:a=\"http://schemas.microsoft.com/exchange/2010/Autodiscover\"><s:Header>\
         <a:RequestedServerVersion>Exchange2013</a:RequestedServerVersion>\
         <w:Action>http://schemas.microsoft.com/exchange/2010/Autodiscover/Autodiscover/GetUserSettings</w:Action>\
         <w:To>{to}</w:To></s:Header><s:Body><a:GetUserSettingsRequestMessage><a:Request><a:Users>{list}</a:Users>\
         <a:RequestedSettings><a:Setting>ExternalEwsUrl</a:Setting><a:Setting>GroupingInformation</a:Setting>\
         </a:RequestedSettings></a:Request></a:GetUserSettingsRequestMessage></s:Body></s:Envelope>"
    )
}

/// Reads the settings of each user, in the order in which they were asked for. None if the response breaks off.
pub(crate) fn user_settings(body: &[u8]) -> Option<Vec<UserSettings>> {
    let mut reader = Reader::new(body).ok()?;
    let mut users: Vec<UserSettings> = Vec::new();
    let mut name = String::new();
    let mut depth = 0_u32;
    // How deep the user stands whose settings are read.
    let mut within = None;
    loop {
        match reader.next().ok()? {
            Event::Start(start) if start.empty => {}
            Event::Start(start) => {
                let user = users.last_mut().filter(|_| within.is_some());
                match (start.local, user) {
                    (b"UserResponse", _) => {
                        users.push(UserSettings::default());
                        within = Some(depth);
                        depth += 1;
                    }
                    (b"ErrorCode", Some(user)) if user.error.is_empty() => {
                        user.error = reader.text(&start).ok()?.as_ref().into();
                    }
                    (b"Name", Some(_)) => name = reader.text(&start).ok()?.into_owned(),
                    (b"Value", Some(user)) => {
                        let value = Some(reader.text(&start).ok()?.as_ref().into());
                        match name.as_str() {
                            "ExternalEwsUrl" => user.ews_url = value,
                            "GroupingInformation" => user.grouping = value,
                            _ => {}
                        }
                    }
                    _ => depth += 1,
                }
            }
            Event::End => {
                depth = depth.checked_sub(1)?;
                within = within.filter(|at| *at < depth);
                if depth == 0 {
                    return Some(users);
                }
            }
            Event::Text(_) | Event::CData(_) => {}
            Event::Eof => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_each_user() {
        let request = get_user_settings("https://a/?x&y", &["amy@contoso.com", "<"]);
        assert!(
            request.contains("<a:Mailbox>amy@contoso.com<")
                && request.contains("&lt;")
                && request.contains("x&amp;y")
        );
        let setting = |name: &str, value: &str| {
            format!(
                "<UserSetting i:type='StringSetting'><Name>{name}</Name><Value>{value}</Value></UserSetting>"
            )
        };
        let text = format!(
            "<s:Envelope xmlns:s='http://schemas.xmlsoap.org/soap/envelope/'><s:Body><GetUserSettingsResponseMessage>\
             <Response><ErrorCode>NoError</ErrorCode><ErrorMessage /><UserResponses><UserResponse><ErrorCode>NoError</ErrorCode>\
             <ErrorMessage>No error.</ErrorMessage><UserSettingErrors/><UserSettings>{}{}</UserSettings></UserResponse>\
             <UserResponse><ErrorCode>InvalidUser</ErrorCode><UserSettingErrors><UserSettingError><ErrorCode>x</ErrorCode>\
             </UserSettingError></UserSettingErrors></UserResponse></UserResponses></Response>\
             </GetUserSettingsResponseMessage></s:Body></s:Envelope>",
            setting("ExternalEwsUrl", "https://mail/EWS"),
            setting("GroupingInformation", "CO1"),
        );
        let users = user_settings(text.as_bytes()).unwrap();
        assert_eq!(users.len(), 2);
        assert_eq!(users[0].ews_url.as_deref(), Some("https://mail/EWS"));
        assert_eq!(users[0].grouping.as_deref(), Some("CO1"));
        assert_eq!(
            (&*users[0].error, &*users[1].error),
            ("NoError", "InvalidUser")
        );
        assert_eq!(users[1].grouping, None);
        for end in 0..text.len() {
            assert_eq!(user_settings(&text.as_bytes()[..end]), None, "{end}");
        }
    }
}
