$mailboxes = @({{ mailboxes | map("ps") | join(", ") }})
if (-not $mailboxes) { $mailboxes = (Read-Host 'Addresses of the mailboxes, with commas between them').Split(',').Trim() }
Connect-ExchangeOnline -ShowBanner:$false -ExchangeEnvironmentName {{ exchange | ps }}
{% if app_only %}
if (-not (Get-ServicePrincipal | Where-Object AppId -eq $AppId)) {
    $null = New-ServicePrincipal -AppId $AppId -ObjectId $ObjectId -DisplayName {{ display_name | ps }}
}
{% endif %}
foreach ($mailbox in $mailboxes) {
{% if app_only %}
    $null = Add-MailboxPermission -Identity $mailbox -User $ObjectId -AccessRights FullAccess
{% endif %}
    Set-CASMailbox -Identity $mailbox{% for switch in switches %} {{ switch }}{% endfor %}

}
