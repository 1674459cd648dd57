"""What a result is shown as: tables, pages, the HTML report, pictures."""
