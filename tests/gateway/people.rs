//! Real EWS clients through the gateway, and its page in a real browser, where they are installed.
