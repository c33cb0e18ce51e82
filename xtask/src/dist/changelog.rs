//! The changelog as Debian wants it (Debian Policy, section 4.4), from ours.

/// One entry with what stands under the first heading.
pub(super) fn debian(changes: &str, version: &str) -> String {
    let newest = changes.split("\n## ").nth(1).unwrap_or_default();
    let mut text = format!("portcullis ({version}-1) unstable; urgency=medium\n\n");
    for line in newest.lines().skip(1).filter(|line| !line.trim().is_empty()) {
        // Continued lines are indented already.
        match line.strip_prefix("- ") {
            Some(item) => text.push_str(&format!("  * {item}\n")),
            None => text.push_str(&format!("    {}\n", line.trim())),
        }
    }
    text.push_str(
        "\n -- The Portcullis maintainers <portcullis@example.invalid>  Thu, 01 Jan 2026 00:00:00 +0000\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_of_its_own_form() {
        let text = debian(
            "# Changelog\n\nAll.\n\n## Unreleased\n\n- **added**: one\n  goes on\n- two\n\n## 0.0.1\n\n- old\n",
            "0.1.0",
        );
        assert!(text.starts_with("portcullis (0.1.0-1) unstable; urgency=medium\n\n  * **added**: one\n    goes on\n  * two\n\n -- "));
        assert!(!text.contains("old"));
    }
}
